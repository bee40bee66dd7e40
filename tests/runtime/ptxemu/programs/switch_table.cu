// A switch dense enough for a table of branches.
extern "C" __global__ void switch_table(const int* x, int* y) {
    int i = threadIdx.x, v = x[i], r = i;
    switch (v) {
        case 0: r = y[i] + 1; break;
        case 1: r = y[i] * 7 ^ i; break;
        case 2: for (int k = 0; k < i; k++) r = r * 3 + k; break;
        case 3: r = y[i] - i; // falls through
        case 4: r = r * r; break;
        case 5: r = ~r; break;
        case 6: r = y[i] % 5 + y[i ^ 1]; break;
        case 7: r = i << (i & 7); break;
        case 8: r = __popc(y[i]) * 3; break;
        default: r = -1;
    }
    y[i + blockDim.x] = r;
}
