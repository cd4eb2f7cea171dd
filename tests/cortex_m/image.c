/* The smallest image around an exported network "net": vector table, reset handler, semihosting.
   Reads input.bin sample by sample, writes output.bin, and the deepest stack in bytes to stack.bin. */

#include "net.h"

extern uint32_t stack_top, data_start, data_end, data_load, bss_start, bss_end;

static uint32_t semihost(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t open_file(const char *path, uint32_t mode, uint32_t length)
{
    const uint32_t block[3] = {(uint32_t)path, mode, length};
    return semihost(0x01U, block);
}

static uint32_t transfer(uint32_t operation, uint32_t file, void *data, uint32_t bytes)
{
    const uint32_t block[3] = {file, (uint32_t)data, bytes};
    return semihost(operation, block);                  /* bytes that were not transferred */
}

static INPUT_TYPE input[NET_INPUT_SIZE];
static OUTPUT_TYPE output[NET_OUTPUT_SIZE];
#if NET_WORK_BYTES
static net_work work;
#endif

void reset(void)
{
    const uint32_t paint = 0x5AA55AA5U;
    uint32_t *p, *from = &data_load, source, target, used;
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88U |= 0xFU << 20;    /* CPACR: the FPU on */
    __asm__ volatile("dsb\n\tisb");
#endif
    for (p = &data_start; p < &data_end; ++p) {
        *p = *from++;
    }
    for (p = &bss_start; p < &bss_end; ++p) {
        *p = 0;
    }
    __asm__ volatile("mov %0, sp" : "=r"(p));
    for (p -= 2; p >= &bss_end; --p) {
        *p = paint;
    }
    source = open_file("input.bin", 1U, 9U);            /* rb */
    target = open_file("output.bin", 5U, 10U);          /* wb */
    while (transfer(0x06U, source, input, sizeof(input)) == 0U) {
#if NET_WORK_BYTES
        net(input, output, &work);
#else
        net(input, output);
#endif
        (void)transfer(0x05U, target, output, sizeof(output));
    }
    for (p = &bss_end; *p == paint; ++p) {
    }
    used = (uint32_t)&stack_top - (uint32_t)p;
    (void)transfer(0x05U, open_file("stack.bin", 5U, 9U), &used, sizeof(used));
    (void)semihost(0x18U, (const void *)0x20026U);
    for (;;) {
    }
}

typedef struct {
    uint32_t *stack;
    void (*handler)(void);
} vector_table;

__attribute__((section(".vectors"), used)) static const vector_table vectors = {&stack_top, reset};
