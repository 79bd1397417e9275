/* A v3 helper at the speed of C: answers PING, opens whatever it is asked to open, streams counted packets.
 *
 *   streamer --in-fd=3 --out-fd=4        definition: NAME:type=c,rate=PACKETS_PER_SECOND
 *
 * Stands in for the C helpers of Kismet in benchmarks. Ends at the end of its input. A packet is 200 bytes; byte 40
 * holds its number, 64 bits, little-endian, as in the synthetic radio.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int in_fd = 3, out_fd = 4;
static uint32_t seqno = 1;
static uint8_t out[1 << 16];

static void be16(uint8_t *at, uint16_t v) { at[0] = v >> 8; at[1] = v; }
static void be32(uint8_t *at, uint32_t v) { be16(at, v >> 16); be16(at + 2, v); }
static uint16_t rd16(const uint8_t *at) { return at[0] << 8 | at[1]; }
static uint32_t rd32(const uint8_t *at) { return (uint32_t)rd16(at) << 16 | rd16(at + 2); }

static void put(const uint8_t *data, size_t size) {
    while (size) {
        ssize_t n = write(out_fd, data, size);
        if (n <= 0) exit(1);
        data += n;
        size -= n;
    }
}

static size_t frame(uint8_t *at, uint16_t kind, uint16_t code, uint32_t number, const uint8_t *body, size_t size) {
    be32(at, 0xDECAFBAD); be16(at + 4, 0xA9A9); be16(at + 6, 3); be32(at + 8, size);
    be16(at + 12, kind); be16(at + 14, code); be32(at + 16, number);
    memmove(at + 20, body, size);
    return 20 + size;
}

static size_t packet(uint8_t *at, uint64_t number, const struct timespec *now) {
    uint8_t body[300], *p = body;
    *p++ = 0x81; *p++ = 0x04; *p++ = 0x85;                       /* {4: {5 entries}} */
    *p++ = 0x01; *p++ = 0xcd; be16(p, 147); p += 2;              /* dlt USER0 */
    *p++ = 0x02; *p++ = 0xce; be32(p, now->tv_sec); p += 4;
    *p++ = 0x03; *p++ = 0xce; be32(p, now->tv_nsec / 1000); p += 4;
    *p++ = 0x04; *p++ = 0xce; be32(p, 200); p += 4;
    *p++ = 0x06; *p++ = 0xc6; be32(p, 200); p += 4;
    memset(p, 0x55, 200);
    for (int i = 0; i < 8; i++) p[40 + i] = number >> (8 * i);
    p += 200;
    return frame(at, 16, 0, seqno++, body, p - body);
}

static double monotonic(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    static uint8_t in[1 << 16];
    size_t have = 0;
    double rate = 0, began = 0;
    uint64_t sent = 0;
    int streaming = 0;
    for (int i = 1; i < argc; i++) {
        sscanf(argv[i], "--in-fd=%d", &in_fd);
        sscanf(argv[i], "--out-fd=%d", &out_fd);
    }
    for (;;) {
        int wait = -1;
        if (streaming) {
            struct timespec now;
            uint64_t due = (uint64_t)((monotonic() - began) * rate) + 1;
            size_t size = 0;
            clock_gettime(CLOCK_REALTIME, &now);
            while (sent < due) {
                size += packet(out + size, sent++, &now);
                if (size > sizeof out - 512) { put(out, size); size = 0; }
            }
            put(out, size);
            wait = 1 + (int)(1000 * (sent / rate - (monotonic() - began)));
            if (wait < 1) wait = 1;
        }
        struct pollfd p = {in_fd, POLLIN, 0};
        if (poll(&p, 1, wait) <= 0) continue;
        ssize_t n = read(in_fd, in + have, sizeof in - have);
        if (n <= 0) return 0;
        have += n;
        while (have >= 12) {
            int old = rd16(in + 4) == 0xABCD;
            size_t head = old ? 48 : 20, size = head + rd32(in + 8);
            if (have < size) break;
            uint8_t reply[256], body[64], *b = body;
            if (old) {
                put(reply, frame(reply, 3, 0, rd32(in + 44), body, 0));
            } else {
                uint16_t kind = rd16(in + 12);
                uint32_t number = rd32(in + 16);
                if (kind == 2) put(reply, frame(reply, 3, 0, number, body, 0));
                if (kind == 4) return 0;
                if (kind == 12) {
                    const char *found = NULL;
                    for (size_t i = 20; i + 5 < size && !found; i++)
                        if (!memcmp(in + i, "rate=", 5)) found = (char *)in + i + 5;
                    rate = found ? atof(found) : 100;
                    *b++ = 0x83; *b++ = 1; *b++ = 0xce; be32(b, number); b += 4;
                    *b++ = 2; *b++ = 0xcd; be16(b, 147); b += 2;
                    *b++ = 3; *b++ = 0xa1; *b++ = 'c';
                    put(reply, frame(reply, 13, 1, number, body, b - body));
                    streaming = 1;
                    began = monotonic();
                }
            }
            memmove(in, in + size, have - size);
            have -= size;
        }
    }
}
