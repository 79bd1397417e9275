/* Feeds the C SDK what a supervisor never should say: recorded conversations, damaged, in pieces; made for the sanitizers.
 *
 *     fuzz SECONDS EXECUTIONS SEED FILE...
 *
 * It ends with the first of the two limits that is not 0, and prints executions, captures, and channels tuned to.
 * The files come once as they are, then damaged.
 *
 * The threads' work is done inline, so that an execution is the whole conversation; what a thread waits for is that time
 * passes, and much of it.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sys/uio.h>
#include <time.h>

static time_t passed; /* seconds that the clock is ahead */
static ssize_t take_some(int fd, const struct iovec *parts, int count);

static int clock_of(clockid_t clock, struct timespec *now)
{
    int result = clock_gettime(clock, now);
    now->tv_sec += passed;
    return result;
}

#define clock_gettime clock_of
#define writev take_some
static int run_inline(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *of);
static int end_waiting(pthread_cond_t *changed, pthread_mutex_t *lock);
#define pthread_create run_inline
#define pthread_cond_wait end_waiting
#define pthread_cond_timedwait(changed, lock, until) ((void)(until), end_waiting(changed, lock))
#include "helperd.c"

static uint64_t state;
static unsigned long captures, tuned; /* how deep the conversations go */

static uint32_t pick(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return below ? (uint32_t)(state >> 16) % below : 0;
}

/* A server that reads as it likes. */
static ssize_t take_some(int fd, const struct iovec *parts, int count)
{
    size_t size = 0;
    (void)fd;
    for (int at = 0; at < count; at++) size += parts[at].iov_len;
    errno = pick(500) ? EAGAIN : EPIPE;
    return pick(4) == 0 ? -1 : (ssize_t)(pick(2) ? size : 1 + pick((uint32_t)size));
}

static int thread_waits; /* what a thread waits for does not come while it runs inline: it ends, sooner or later */

static int end_waiting(pthread_cond_t *changed, pthread_mutex_t *lock_)
{
    (void)changed, (void)lock_;
    passed += pick(8) ? 1 : pick(1 << 24);
    if (pick(3) == 0) hd.stopping = thread_waits = 1;
    return 0;
}

static int run_inline(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *of)
{
    int stopping = hd.stopping;
    (void)attributes;
    *thread = hd.main;
    thread_waits = 0;
    unlock();
    run(of);
    lock();
    if (thread_waits) hd.stopping = stopping;
    hd.tuning = 0;
    return 0;
}

/* Numbers that an author may well come by. */
static double odd_real(void)
{
    const double odd[] = {0, -0.0, -1, 5, NAN, INFINITY, -INFINITY, 5e-324, 1e-300, 1e-9, 1e9, 0x7FFFFFFF, 1e19, 1e300};
    return odd[pick(LENGTH(odd))];
}
static uint64_t odd_number(void)
{
    const uint64_t odd[] = {0, 1, 999999999, 0x7FFFFFFF, 0x80000000u, 0xFFFFFFFFu, 0x7FFFFFFFFFFFFFFF, UINT64_MAX};
    return odd[pick(LENGTH(odd))];
}

static int list(hd_list *devices)
{
    hd_list_add(devices, "x", "a=1", "hardware");
    return pick(4) ? 0 : hd_refuse("busy", "it is %d", 1);
}

static int open_any(const hd_definition *definition, hd_device *device)
{
    static const char *const CHANNELS_[] = {"1", "2", "3", NULL};
    long number = 0;
    if (hd_number(definition, "number", -5, 1000, &number)) return -1;
    hd_flag(definition, "flag", 1);
    device->dlt = pick(2) ? 100 : (int)pick(300) - 1;
    device->channels = CHANNELS_;
    if (pick(4)) device->hop = CHANNELS_;
    if (pick(9) == 0) device->channel = CHANNELS_[pick(3)];
    device->hardware = hd_interface(definition);
    if (pick(2)) device->hop_rate = odd_real();
    return pick(8) ? 0 : hd_refuse_errno(ENODEV, hd_interface(definition));
}

static int parse_channel(const char *name, int64_t *value)
{
    *value = (int64_t)strlen(name);
    return pick(4) ? 0 : hd_refuse(NULL, "not %s", name);
}

static int set_channel(const char *name, int64_t value)
{
    tuned++;
    return value < 0 || pick(3) == 0 ? hd_refuse("", "no %s", name) : 0;
}

static int capture(void)
{
    static const unsigned char data[300000];
    hd_radio radio = {-60, -90, 1, 2, 2412000, 54, "6"};
    hd_position position = {52.5, 13.4, 34, 1, 2, 3, 3, "x", "y"};
    hd_meta meta = {1234567890123456789u, 5000, 0, 2};
    uint32_t number = pick(30), at;
    captures++;
    if (hd.helperd && pick(2)) hd.number = (int)pick(9) - 1;
    for (at = 0; at < number; at++) {
        if (pick(3) == 0) hd_signal(&radio);
        if (pick(5) == 0) hd_gps(pick(2) ? &position : NULL);
        meta.dlt = pick(9) ? (int)pick(3) * 100 : (int)(uint32_t)odd_number();
        (pick(3) ? hd_offer : hd_packet)(data, pick(pick(30) ? 3000 : sizeof data), pick(2) ? &meta : NULL);
        if (pick(9) == 0) hd_json("kind", "{\"a\": 1}", pick(2) ? odd_number() : 0);
        if (pick(9) == 0) hd_lost(odd_number(), "kernel");
        if (pick(9) == 0) meta.ns = odd_number(), meta.original = (uint32_t)odd_number(), meta.flags = pick(3);
        if (pick(9) == 0) radio.dbm = (int)(uint32_t)odd_number(), radio.khz = odd_number();
        if (pick(9) == 0) position.latitude = odd_real(), position.altitude = odd_real(), position.fix = -1;
        if (pick(9) == 0) hd_wait(odd_real());
    }
    return pick(2) ? hd_end("done") : -1;
}

static const hd_option OPTIONS_[] = {{"number", "a number"}, {"flag", "a flag"}, {NULL, NULL}};
static const hd_helper HELPER = {.type = "fuzz", .options = OPTIONS_, .list = list, .open = open_any,
                                 .channel_parse = parse_channel, .channel_set = set_channel, .capture = capture};

static void begin(void)
{
    unsigned char *ring = hd.ring;
    pthread_mutex_t lock_ = hd.lock;
    pthread_cond_t changed = hd.changed;
    pthread_key_t key = hd.own_failure;
    int wake_[2] = {hd.wake[0], hd.wake[1]}, stop_[2] = {hd.stop[0], hd.stop[1]};
    memset(&hd, 0, (size_t)((char *)hd.index - (char *)&hd)); /* what is behind it is large, and set before it is used */
    memset(&hd.plan, 0, offsetof(struct plan, at));
    memset(&hd.before, 0, offsetof(struct plan, at));
    memset(&hd.list, 0, offsetof(struct hd_list, data));
    hd.helper = &HELPER;
    hd.allocated = RING, hd.capacity = SMALL_RING;
    hd.main = pthread_self();
    hd.ring = ring, hd.lock = lock_, hd.changed = changed, hd.own_failure = key, hd.out_fd = 1, hd.in_fd = -1;
    memcpy(hd.wake, wake_, sizeof wake_);
    memcpy(hd.stop, stop_, sizeof stop_);
    hd.listening = 1;
    hd.dlt = hd.number = -1;
    hd.numbered = (int)pick(4) != 0; /* otherwise it comes, or is waited for in vain */
    passed = 0;
}

/* One conversation. */
static void execute(const unsigned char *data, size_t size)
{
    size_t at = 0;
    begin();
    lock();
    while (at < size) {
        size_t piece = pick(4) ? size - at : 1 + pick(40);
        if (piece > size - at) piece = size - at;
        if (piece > sizeof hd.input - hd.buffered) piece = sizeof hd.input - hd.buffered;
        if (!piece) break;
        memcpy(hd.input + hd.buffered, data + at, piece);
        hd.buffered += piece;
        at += piece;
        if (frames()) break;
        if (is_hopping()) hop_once();
        drain();
    }
    unlock();
    if (hd.queued > hd.capacity || hd.buffered > sizeof hd.input) abort();
}

static size_t damage(unsigned char *data, size_t size, size_t room)
{
    static const unsigned char ODD[] = {0, 1, 0x7F, 0x80, 0x81, 0x8F, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC4, 0xC6, 0xCA, 0xCB, 0xCF,
                                        0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF, 10, 12, 14, 17, ',', '=', '"', ':'};
    uint32_t times = pick(6);
    for (; times && size; times--) {
        uint32_t at = pick((uint32_t)size), length;
        switch (pick(6)) {
        case 0: data[at] ^= (unsigned char)(1 << pick(8)); break;
        case 1: data[at] = ODD[pick(sizeof ODD)]; break;
        case 2: size = at; break;
        case 3: /* a piece once more, somewhere else */
            length = pick((uint32_t)size - at);
            if (length > room - size) length = (uint32_t)(room - size);
            memmove(data + at + length, data + at, size - at);
            size += length;
            break;
        case 4: /* without a piece */
            length = pick((uint32_t)size - at);
            memmove(data + at, data + at + length, size - at - length);
            size -= length;
            break;
        default: /* a length that is not so */
            if (size >= 12) store(data + pick((uint32_t)size - 11) / 20 * 20 + 8, pick(2) ? pick(100) : pick(0xFFFFFFFF));
            break;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    static unsigned char (*files)[8192], work[8192];
    size_t sizes[4096];
    int number = 0, at;
    unsigned long done = 0, most = strtoul(argv[2], NULL, 10);
    time_t seconds = atoi(argv[1]), until = time(NULL) + seconds;
    pthread_condattr_t attributes;
    files = malloc(sizeof *files * 4096);
    state = strtoull(argv[3], NULL, 10) * 2654435761u + 88172645463325252u;
    for (at = 4; at < argc && number < 4096; at++) {
        FILE *file = fopen(argv[at], "rb");
        if (!file) continue;
        sizes[number] = fread(files[number], 1, sizeof *files, file);
        fclose(file);
        number += sizes[number] > 0;
    }
    if (!number || pipe(hd.wake) || pipe(hd.stop)) return 2;
    for (at = 0; at < 2; at++) {
        fcntl(hd.wake[at], F_SETFL, O_NONBLOCK);
        fcntl(hd.stop[at], F_SETFL, O_NONBLOCK);
    }
    hd.ring = malloc(RING);
    pthread_key_create(&hd.own_failure, NULL);
    pthread_mutex_init(&hd.lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&hd.changed, &attributes);
    for (at = 0; at < number; at++) execute(files[at], sizes[at]);
    while ((!most || done < most) && (seconds <= 0 || time(NULL) < until)) {
        uint32_t one = pick((uint32_t)number), other = pick((uint32_t)number);
        size_t size = sizes[one];
        memcpy(work, files[one], size);
        if (pick(3) == 0 && size < sizeof work) { /* and another one behind it */
            size_t more = sizes[other] < sizeof work - size ? sizes[other] : sizeof work - size;
            memcpy(work + size, files[other], more);
            size += more;
        }
        execute(work, damage(work, size, sizeof work));
        done++;
    }
    printf("%lu %lu %lu\n", done, captures, tuned);
    return 0;
}
