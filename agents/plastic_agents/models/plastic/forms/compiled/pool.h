/* Threads that share the groups of one call, and wait for the next. */
#ifndef POOL_H
#define POOL_H

#include <stdint.h>

/* Does one group of `argument`'s work; `worker` is below the number that `share` was given, and no other thread's. */
typedef void Work(const void *argument, int64_t worker, int64_t group);

/* Call `work` once for each group, in this thread and at most `workers` - 1 others; return when all are done. */
void share(Work *work, const void *argument, int64_t groups, int64_t workers);

#endif
