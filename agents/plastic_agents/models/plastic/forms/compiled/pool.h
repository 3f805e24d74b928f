/* A pool of threads that divide the groups of a call between them. */
#ifndef POOL_H
#define POOL_H

#include <stdint.h>

/* Work on one group of sequences. `worker` numbers the threads of a call, below `workers` of `run_groups`. */
typedef void Work(const void *argument, int64_t worker, int64_t group);

/* Call `work` once for each group, in this thread and at most `workers` - 1 others; return when all groups are done. */
void run_groups(Work *work, const void *argument, int64_t groups, int64_t workers);

#endif
