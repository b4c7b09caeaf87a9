#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

enum { PATIENCE = 4000 }; /* looks before a waiting thread lets others run: some tens of microseconds */

struct team {
    int members;
    job work;
    void *what;
    int arrived, phase;      /* of the meeting */
    int orders;              /* jobs so far; -1 ends */
    pthread_mutex_t lock;
    pthread_cond_t called;
    pthread_t *threads;
};

typedef struct {
    team *together;
    int number;
} member;

static inline void pause_briefly(int looks) {
    if (looks > PATIENCE)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#endif
}

void team_meet(team *t) {
    int phase = __atomic_load_n(&t->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->members) {
        __atomic_store_n(&t->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&t->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int looks = 0; __atomic_load_n(&t->phase, __ATOMIC_ACQUIRE) == phase; looks++)
        pause_briefly(looks);
}

/* The next order after `seen`: looked for a while, then waited for, so that an idle team costs nothing. */
static int next_order(team *t, int seen) {
    int order;
    for (int looks = 0; looks < PATIENCE; looks++) {
        if ((order = __atomic_load_n(&t->orders, __ATOMIC_ACQUIRE)) != seen)
            return order;
        pause_briefly(looks);
    }
    pthread_mutex_lock(&t->lock);
    while ((order = __atomic_load_n(&t->orders, __ATOMIC_ACQUIRE)) == seen)
        pthread_cond_wait(&t->called, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return order;
}

static void *serve(void *given) {
    member self = *(member *)given;
    free(given);
    for (int order = 0; (order = next_order(self.together, order)) >= 0;) {
        self.together->work(self.together->what, self.together, self.number, self.together->members);
        team_meet(self.together);
    }
    return NULL;
}

static void call(team *t, int order) {
    pthread_mutex_lock(&t->lock);
    __atomic_store_n(&t->orders, order, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&t->called);
    pthread_mutex_unlock(&t->lock);
}

team *team_new(int members) {
    team *t = calloc(1, sizeof *t);
    t->threads = calloc(members, sizeof *t->threads);
    t->members = 1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->called, NULL);
    for (int number = 1; number < members; number++) {
        member *self = malloc(sizeof *self);
        *self = (member){t, number};
        if (pthread_create(&t->threads[number], NULL, serve, self)) {
            free(self);
            break; /* a smaller team computes the same */
        }
        t->members++;
    }
    return t;
}

void team_free(team *t) {
    call(t, -1);
    for (int number = 1; number < t->members; number++)
        pthread_join(t->threads[number], NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->called);
    free(t->threads);
    free(t);
}

void team_run(team *t, job work, void *what) {
    t->work = work;
    t->what = what;
    if (t->members > 1)
        call(t, t->orders % 1000000000 + 1);
    work(what, t, 0, t->members);
    team_meet(t);
}
