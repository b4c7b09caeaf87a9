#include "team.h"

#include <pthread.h>
#include <stdlib.h>

/* Looks before a waiting thread sleeps. A meeting comes within microseconds unless a thread has lost its core, and then
 * looking on would only keep it from coming back; the next job comes when the caller's own work between two is done. */
enum { LOOKS_MEETING = 4000, LOOKS_ORDER = 16000, LAST = -1 };

struct team {
    int members;
    job work;
    void *what;
    int arrived, phase;      /* of the meeting */
    int orders;              /* jobs so far, or LAST */
    int asleep;              /* who waits in the condition */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t *threads;
};

typedef struct {
    team *together;
    int number;
} member;

/* Waits until a number is no longer `seen`; returns what it is then. */
static int change_of(team *t, const int *number, int seen, int most) {
    int now;
    for (int looks = 0; looks < most; looks++) {
        if ((now = __atomic_load_n(number, __ATOMIC_ACQUIRE)) != seen)
            return now;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&t->lock);
    __atomic_add_fetch(&t->asleep, 1, __ATOMIC_SEQ_CST);
    while ((now = __atomic_load_n(number, __ATOMIC_SEQ_CST)) == seen)
        pthread_cond_wait(&t->changed, &t->lock);
    __atomic_sub_fetch(&t->asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&t->lock);
    return now;
}

/* Sets a number that others wait for. Whoever is not seen asleep here will still look at the number before sleeping. */
static void change(team *t, int *number, int to) {
    __atomic_store_n(number, to, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&t->asleep, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->changed);
        pthread_mutex_unlock(&t->lock);
    }
}

void team_meet(team *t) {
    int phase = __atomic_load_n(&t->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->members) {
        __atomic_store_n(&t->arrived, 0, __ATOMIC_RELAXED);
        change(t, &t->phase, (phase + 1) & 0xffff);
    } else {
        change_of(t, &t->phase, phase, LOOKS_MEETING);
    }
}

static void *serve(void *given) {
    member self = *(member *)given;
    free(given);
    for (int order = 0; (order = change_of(self.together, &self.together->orders, order, LOOKS_ORDER)) != LAST;) {
        self.together->work(self.together->what, self.together, self.number, self.together->members);
        team_meet(self.together);
    }
    return NULL;
}

team *team_new(int members) {
    team *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->threads = calloc(members, sizeof *t->threads);
    t->members = 1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    for (int number = 1; t->threads && number < members; number++) {
        member *self = malloc(sizeof *self);
        if (!self)
            break; /* a smaller team computes the same */
        *self = (member){t, number};
        if (pthread_create(&t->threads[number], NULL, serve, self)) {
            free(self);
            break;
        }
        t->members++;
    }
    return t;
}

int team_members(const team *t) { return t->members; }

void team_free(team *t) {
    change(t, &t->orders, LAST);
    for (int number = 1; number < t->members; number++)
        pthread_join(t->threads[number], NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
    free(t->threads);
    free(t);
}

void team_run(team *t, job work, void *what) {
    t->work = work;
    t->what = what;
    if (t->members > 1)
        change(t, &t->orders, (t->orders + 1) & 0xffff);
    work(what, t, 0, t->members);
    team_meet(t);
}
