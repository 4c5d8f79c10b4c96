/* Executes AVX-VNNI on processors that have AVX2 only: a handler of SIGILL decodes and computes
 * VEX-encoded vpdpbusd (66 0F38.W0 50) and vpdpwssd (52) on the registers that the signal saved.
 * Formats: Intel SDM volume 2, section 2.3 (VEX); volume 1, section 13.4 (XSAVE area). */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { XSTATE_HEADER = 512, HIGH_HALVES = 576, AVX_STATE = 4 };

static const int GENERAL[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};
static volatile long executed;

typedef struct {
    int32_t word[8];
} vector;

static uint64_t *state_components(ucontext_t *context) {
    return (uint64_t *)((uint8_t *)context->uc_mcontext.fpregs + XSTATE_HEADER);
}

static uint8_t *high_half(ucontext_t *context, int i) {
    return (uint8_t *)context->uc_mcontext.fpregs + HIGH_HALVES + 16 * i;
}

static vector load(ucontext_t *context, int i) {
    vector v = {{0}};
    memcpy(v.word, &context->uc_mcontext.fpregs->_xmm[i], 16);
    if (*state_components(context) & AVX_STATE) memcpy(v.word + 4, high_half(context, i), 16);
    return v;
}

static void store(ucontext_t *context, int i, const vector *v) {
    if (!(*state_components(context) & AVX_STATE)) {
        memset(high_half(context, 0), 0, 256);
        *state_components(context) |= AVX_STATE;
    }
    memcpy(&context->uc_mcontext.fpregs->_xmm[i], v->word, 16);
    memcpy(high_half(context, i), v->word + 4, 16);
}

/* The address of a memory operand; *at moves past its SIB byte and displacement. */
static uint64_t address(const greg_t *general, const uint8_t **at, int mod, int rm, int x, int b) {
    uint64_t base = 0;
    int32_t displacement = 0;
    int wide = mod == 2;
    if (rm == 4) {
        uint8_t sib = *(*at)++;
        int index = (sib >> 3 & 7) | x, low = sib & 7;
        if (index != 4) base = (uint64_t)general[GENERAL[index]] << (sib >> 6);
        if (low == 5 && mod == 0) wide = 1;
        else base += general[GENERAL[low | b]];
    } else if (rm == 5 && mod == 0) {
        wide = 1;
        base = (uint64_t)*at + 4; /* relative to the next instruction; no immediate follows */
    } else {
        base = general[GENERAL[rm | b]];
    }
    if (wide) memcpy(&displacement, *at, 4), *at += 4;
    else if (mod == 1) displacement = (int8_t)*(*at)++;
    return base + displacement;
}

static int32_t dot(int opcode, int32_t acc, int32_t a, int32_t b) {
    uint32_t sum = acc;
    if (opcode == 0x50)
        for (int i = 0; i < 32; i += 8) sum += (uint8_t)(a >> i) * (int8_t)(b >> i);
    else
        for (int i = 0; i < 32; i += 16) sum += (int16_t)(a >> i) * (int16_t)(b >> i);
    return sum;
}

static void on_illegal(int number, siginfo_t *info, void *opaque) {
    ucontext_t *context = opaque;
    greg_t *general = context->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)general[REG_RIP];
    int opcode = at[3];
    (void)number, (void)info;
    if (at[0] != 0xC4 || (at[1] & 31) != 2 || (at[2] & 0x83) != 1 ||
        (opcode != 0x50 && opcode != 0x52)) {
        signal(SIGILL, SIG_DFL); /* not ours: it is met again, and ends the process */
        return;
    }
    int r = ~at[1] >> 4 & 8, x = ~at[1] >> 3 & 8, b = ~at[1] >> 2 & 8;
    int first = ~at[2] >> 3 & 15, wide = at[2] >> 2 & 1, modrm = at[4];
    int target = (modrm >> 3 & 7) | r, mod = modrm >> 6, rm = modrm & 7;
    vector acc = load(context, target), left = load(context, first), right = {{0}};
    at += 5;
    if (mod == 3) right = load(context, rm | b);
    else memcpy(right.word, (void *)address(general, &at, mod, rm, x, b), wide ? 32 : 16);
    for (int i = 0; i < 8; i++)
        acc.word[i] = i < 4 << wide ? dot(opcode, acc.word[i], left.word[i], right.word[i]) : 0;
    store(context, target, &acc);
    general[REG_RIP] = (greg_t)at;
    __atomic_fetch_add(&executed, 1, __ATOMIC_RELAXED);
}

void install(void) {
    struct sigaction action = {0};
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, 0);
}

long instructions(void) { return executed; }
