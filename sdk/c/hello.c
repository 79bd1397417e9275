/* SPDX-License-Identifier: Apache-2.0
 *
 * hello: numbered packets. The interface is any name; each packet is its number, 8 bytes big-endian, padded to `size`.
 *
 *     hello:type=hello,count=1000,rate=5          1000 packets, five a second; without rate as fast as they are taken
 *     hello:type=hello,channel=3                  it has channels 1 to 4, and 13, which cannot be tuned
 */
#include "helperd.h"

#include <stdlib.h>
#include <string.h>

#ifndef TYPE
#define TYPE "hello" /* under a Kismet server: the type that it stands in for */
#endif

static long count, rate, size, patient;

static const char *const CHANNELS[] = {"1", "2", "3", "4", "13", NULL};

static int list(hd_list *devices)
{
    hd_list_add(devices, "hello", NULL, "a counter");
    return 0;
}

static int probe(const hd_definition *definition, hd_device *device)
{
    const char *type = hd_get(definition, "type");
    device->hardware = "a counter";
    device->channels = CHANNELS;
    return type ? !strcmp(type, TYPE) : !strcmp(hd_interface(definition), "hello");
}

static int open_counter(const hd_definition *definition, hd_device *device)
{
    const char *type = hd_get(definition, "type");
    count = 0, rate = 0, size = 64;
    if (type && strcmp(type, TYPE)) return hd_refuse("bad-definition", "type=%s is not for this helper; write type=" TYPE, type);
    if (hd_number(definition, "count", 0, 1000000000, &count) || hd_number(definition, "rate", 0, 1000000, &rate) ||
        hd_number(definition, "size", 8, 1 << 20, &size))
        return -1;
    patient = hd_flag(definition, "wait", 1);
    device->dlt = 147;
    device->hardware = "a counter";
    device->channels = CHANNELS;
    return 0;
}

static int channel_parse(const char *name, int64_t *value)
{
    char *after;
    *value = strtol(name, &after, 10);
    return *after || *value < 1 ? hd_refuse("not-supported", "'%s' is no channel; 1 to 4 are", name) : 0;
}

static int channel_set(const char *name, int64_t value)
{
    return value > 4 ? hd_refuse("not-supported", "there is no crystal for channel %s; 1 to 4 are", name) : 0;
}

static int capture(void)
{
    unsigned char *packet = calloc(1, (size_t)size);
    uint64_t number; /* for ever is longer than a board's long */
    int at, taken = 0;
    if (!packet) return hd_refuse("no-resources", "no memory for a packet of %ld bytes", size);
    for (number = 0; taken >= 0 && (!count || number < (uint64_t)count); number++) {
        for (at = 0; at < 8; at++) packet[at] = (unsigned char)(number >> 8 * (7 - at));
        taken = (patient ? hd_packet : hd_offer)(packet, (size_t)size, NULL);
        if (taken >= 0 && rate) taken = hd_wait(1.0 / (double)rate);
    }
    free(packet);
    return hd_end("counted to %llu", (unsigned long long)number);
}

int main(int argc, char **argv)
{
    static const hd_option OPTIONS[] = {
        {"count", "packets; 0, the default: for ever"},
        {"rate", "packets a second; 0, the default: as fast as they are taken"},
        {"size", "bytes of a packet; default 64"},
        {"wait", "false: what is not taken is counted as lost; default true"},
        {NULL, NULL}};
    static const hd_helper HELPER = {.type = TYPE, .summary = "numbered packets", .version = "1", .options = OPTIONS,
                                     .list = list, .probe = probe, .open = open_counter, .channel_parse = channel_parse,
                                     .channel_set = channel_set, .capture = capture};
    return hd_run(argc, argv, &HELPER);
}
