// Each block waits for the one before it; the last to end sums up.
extern "C" __global__ void semaphore(int* flags, int* values, int* out, unsigned* tickets, int* seen) {
    __shared__ int from;
    __shared__ bool last;
    int me = gridDim.x - 1 - blockIdx.x;  // waits for a block that stands behind it
    if (threadIdx.x == 0) {
        if (me > 0) while (((volatile int*)flags)[me - 1] == 0) { }
        __threadfence();
        from = me > 0 ? ((volatile int*)values)[me - 1] : 1;
    }
    __syncthreads();
    int v = from * 3 + me;
    seen[me * blockDim.x + threadIdx.x] = v + threadIdx.x;
    if (threadIdx.x == 0) {
        values[me] = v;
        __threadfence();
        ((volatile int*)flags)[me] = 1;
        last = atomicInc(tickets, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        __threadfence();
        for (int k = threadIdx.x; k < gridDim.x; k += blockDim.x) out[k] = values[k] * 2;
    }
}
