// Dynamic shared memory, vector accesses, and a tile without bank conflicts beside one with them.
extern __shared__ float tile[];
extern "C" __global__ void transpose(const float4* x, float* y, int padded) {
    int stride = 32 + padded;
    int row = threadIdx.x >> 3, col = threadIdx.x & 7;
    float4 v = x[blockIdx.x * 256 + threadIdx.x];
    float* p = tile + row * stride + col * 4;
    p[0] = v.x; p[1] = v.y; p[2] = v.z; p[3] = v.w;
    __syncthreads();
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int r = warp; r < 32; r += 8) y[blockIdx.x * 1024 + r * 32 + lane] = tile[lane * stride + r];
}
