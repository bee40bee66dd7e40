// What the driver brings: printf and assert.
#include <assert.h>
#include <stdio.h>
extern "C" __global__ void prints(const int* x, int limit) {
    int i = threadIdx.x;
    if (i < 2) printf("thread %d has %5.2f, %s %llx\n", i, x[i] * 0.5, i ? "odd" : "even", 1ull << 40);
    assert(x[i] < limit);
}
