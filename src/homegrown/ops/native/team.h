/* A team of threads that carry out one function together: the caller is the first of them. */
#ifndef TEAM_H
#define TEAM_H

typedef struct team team;

/* What each member calls, with its number and how many there are. */
typedef void (*job)(void *what, team *together, int member, int members);

/* A team of at most so many: fewer where threads cannot be had. Null without memory. */
team *team_new(int members);
int team_members(const team *together);
void team_free(team *together);

/* Runs a job on every member; returns when all are done. One at a time. */
void team_run(team *together, job work, void *what);

/* Waits until every member is here. */
void team_meet(team *together);

#endif
