// Nested branches, loops of different lengths, and an early way out.
extern "C" __global__ void collatz(const unsigned* start, int* steps, int limit) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned n = start[i];
    int count = 0;
    while (n != 1) {
        if (n & 1) {
            if (n > 0x50000000u) { count = -1; break; }
            n = 3 * n + 1;
        } else {
            n >>= 1;
            if (n % 3 == 0) {
                int extra = 0;
                for (int k = 0; k < (int)(n & 7); k++) extra ^= k * k;
                count += extra & 1;
            }
        }
        if (++count >= limit) break;
    }
    steps[i] = count;
}
