// Arrays of a thread, constant and global tables, a pointer that is one of several spaces.
__constant__ int primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ short offsets[4] = {-1, 100, 7, -300};
__device__ const char* text = "tilus";
extern "C" __global__ void local_memory(const int* x, int* y) {
    __shared__ int common[64];
    int own[8];
    int i = threadIdx.x;
    common[i] = i * i;
    for (int k = 0; k < 8; k++) own[k] = x[i] * primes[k];
    __syncthreads();
    const int* from = (i & 1) ? common + (i & 56) : own;
    int s = 0;
    for (int k = 0; k < 8; k++) s += from[(x[i] + k) & 7] * (k + 1);
    y[i] = s + offsets[i & 3] + text[i % 5];
}
