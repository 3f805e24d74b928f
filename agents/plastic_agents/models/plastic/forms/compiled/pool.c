/* See pool.h. It does not use OpenMP: torch has its own OpenMP runtime, and two runtimes compete for the CPU's cores.
 *
 * These threads run no Python code, and `run_groups` returns only when none of them is at work. An exception, from a
 * signal for example, can therefore not free the memory that they write to.
 */
#include "pool.h"

#include <pthread.h>
#include <signal.h>

/* `mutex` guards all fields but `next_group`, which is atomic. */
static struct {
    pthread_mutex_t mutex, caller;   /* the thread that posted the job holds `caller` */
    pthread_cond_t posted, finished;
    int64_t threads;                 /* threads of the pool */
    uint64_t jobs;                   /* jobs posted so far */
    int open;                        /* whether threads may still join the job */
    int64_t joined, at_work;         /* threads that joined the job, and those still at work */
    Work *work;
    const void *argument;
    int64_t groups, workers, next_group;
} pool;

/* A forked child calls it too, because none of the threads exist there. */
static void empty_pool(void) {
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_mutex_init(&pool.caller, NULL);
    pthread_cond_init(&pool.posted, NULL);
    pthread_cond_init(&pool.finished, NULL);
    pool.threads = pool.open = pool.joined = pool.at_work = 0;
}

static void first_use(void) {
    empty_pool();
    pthread_atfork(NULL, NULL, empty_pool);
}

static void take_groups(int64_t worker) {
    int64_t group;
    while ((group = __atomic_fetch_add(&pool.next_group, 1, __ATOMIC_RELAXED)) < pool.groups)
        pool.work(pool.argument, worker, group);
}

static void *wait_for_jobs(void *nothing) {
    uint64_t seen = 0;
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        while (pool.jobs == seen) pthread_cond_wait(&pool.posted, &pool.mutex);
        seen = pool.jobs;
        if (!pool.open || pool.joined + 1 >= pool.workers) continue;
        const int64_t worker = ++pool.joined;
        pool.at_work++;
        pthread_mutex_unlock(&pool.mutex);
        take_groups(worker);
        pthread_mutex_lock(&pool.mutex);
        if (--pool.at_work == 0) pthread_cond_signal(&pool.finished);
    }
    return nothing;
}

/* The threads block all signals, because Python's threads must receive them. If no thread can be created, the existing
 * ones do the work. */
static void start_threads(int64_t threads) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.threads < threads) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, wait_for_jobs, NULL)) break;
        pthread_detach(thread);
        pool.threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void run_groups(Work *work, const void *argument, int64_t groups, int64_t workers) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, first_use);
    /* A concurrent second caller does its work alone. */
    if (workers < 2 || pthread_mutex_trylock(&pool.caller)) {
        for (int64_t group = 0; group < groups; group++) work(argument, 0, group);
        return;
    }
    pthread_mutex_lock(&pool.mutex);
    pool.work = work, pool.argument = argument, pool.groups = groups, pool.workers = workers;
    pool.next_group = pool.joined = 0;
    pool.open = 1, pool.jobs++;
    start_threads(workers - 1);
    pthread_cond_broadcast(&pool.posted);
    pthread_mutex_unlock(&pool.mutex);
    take_groups(0);
    pthread_mutex_lock(&pool.mutex);
    pool.open = 0; /* threads that wake up later do not join, and the caller does not wait for them */
    while (pool.at_work) pthread_cond_wait(&pool.finished, &pool.mutex);
    pthread_mutex_unlock(&pool.mutex);
    pthread_mutex_unlock(&pool.caller);
}
