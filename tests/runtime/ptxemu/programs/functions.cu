// Functions that stay functions: values, structs and pointers go in and out.
struct Pair { int a; float b; };
__device__ __noinline__ int gcd(int a, int b) {
    while (b) { int r = a % b; a = b; b = r; }
    return a;
}
__device__ __noinline__ Pair twist(Pair p, int* count) {
    Pair q;
    q.a = gcd(p.a, 84) + 1;
    q.b = p.b * 0.25f;
    *count += 1;
    return q;
}
__device__ __noinline__ double mean(double a, double b) { return (a + b) * 0.5; }
extern "C" __global__ void functions(const int* x, int* y, double* z) {
    int i = threadIdx.x;
    int count = 0;
    Pair p = {x[i], (float)x[i]};
    if (x[i] & 1) p = twist(p, &count);
    for (int k = 0; k < (i & 3); k++) p = twist(p, &count);
    y[i] = p.a * 100 + count;
    z[i] = mean((double)p.b, (double)i);
}
