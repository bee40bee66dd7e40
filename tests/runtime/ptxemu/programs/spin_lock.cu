// A lock that blocks fight for: reads and writes that are not atomic, under it.
__device__ int lock_word = 0;
extern "C" __global__ void spin_lock(int* total, const int* x) {
    if (threadIdx.x == 0) {
        while (atomicCAS(&lock_word, 0, 1) != 0) __nanosleep(20);
        __threadfence();
        volatile int* t = total;
        int sum = t[0];
        for (int k = 0; k < 8; k++) sum += x[blockIdx.x * 8 + k];
        t[0] = sum;
        t[1] = t[1] * 3 + 1;
        __threadfence();
        atomicExch(&lock_word, 0);
    }
}
