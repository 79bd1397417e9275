/* SPDX-License-Identifier: Apache-2.0
 *
 * afpacket: a small capture from a network interface of Linux, by a packet socket; needs CAP_NET_RAW.
 *
 *     eth0:type=afpacket,promisc=false
 *
 * A packet socket drops what is not read in time, so packets are offered, not handed over, and what the kernel dropped is told.
 */
#define _DEFAULT_SOURCE
#include "helperd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_TIMESTAMPNS
#define SO_TIMESTAMPNS 35
#endif

#ifndef TYPE
#define TYPE "afpacket" /* under a Kismet server: the type that it stands in for */
#endif

static int sock = -1;

static int list(hd_list *devices)
{
    struct if_nameindex *all = if_nameindex(), *one;
    for (one = all; one && one->if_index; one++) hd_list_add(devices, one->if_name, NULL, NULL);
    if (all) if_freenameindex(all);
    return 0;
}

/* libpcap's link type of an interface, -1: none that is captured here. */
static int linktype(const char *name)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%.15s", name);
    if (ioctl(sock, SIOCGIFHWADDR, &request)) return -1;
    switch (request.ifr_hwaddr.sa_family) {
    case ARPHRD_ETHER: case ARPHRD_LOOPBACK: return 1;
    case 803: return 127; /* ARPHRD_IEEE80211_RADIOTAP */
    case 802: case ARPHRD_IEEE80211: return 105;
    case ARPHRD_NONE: return 12;
    default: return -1;
    }
}

static int open_interface(const hd_definition *definition, hd_device *device)
{
    const char *name = hd_interface(definition);
    struct sockaddr_ll address;
    struct packet_mreq promisc;
    int on = 1;
    memset(&address, 0, sizeof address);
    address.sll_family = AF_PACKET;
    address.sll_ifindex = (int)if_nametoindex(name);
    if (!address.sll_ifindex) return hd_refuse("open-refused", "there is no interface %s; --list shows them", name);
    sock = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (sock < 0 && errno == EPERM)
        return hd_refuse("not-permitted", "a packet socket needs CAP_NET_RAW: capabilities = [\"net_raw\"] in the helper's block");
    if (sock < 0) return hd_refuse_errno(errno, "a packet socket");
    device->dlt = linktype(name);
    if (device->dlt < 0) return hd_refuse("not-supported", "%s is of a kind that this helper does not know", name);
    if (setsockopt(sock, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on)) return hd_refuse_errno(errno, "time stamps");
    memset(&promisc, 0, sizeof promisc);
    promisc.mr_ifindex = address.sll_ifindex;
    promisc.mr_type = PACKET_MR_PROMISC;
    if (hd_flag(definition, "promisc", 1) && setsockopt(sock, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promisc, sizeof promisc))
        device->warning = "promiscuous mode is not there: only what is for this machine is captured";
    address.sll_protocol = htons(ETH_P_ALL); /* now, when all is set: before, every interface's packets would come */
    if (bind(sock, (struct sockaddr *)&address, sizeof address)) return hd_refuse_errno(errno, name);
    device->hardware = "a network interface";
    return 0;
}

/* What the kernel had no room for since it was asked last. */
static void tell_drops(void)
{
    struct tpacket_stats stats;
    socklen_t size = sizeof stats;
    if (getsockopt(sock, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0 && stats.tp_drops) hd_lost(stats.tp_drops, "kernel");
}

static int capture(void)
{
    static unsigned char data[65536 + 64];
    union { struct cmsghdr align; unsigned char room[128]; } control;
    struct pollfd on[2] = {{sock, POLLIN, 0}, {hd_stop_fd(), POLLIN, 0}};
    for (;;) {
        struct sockaddr_ll from;
        struct iovec part = {data, sizeof data};
        struct msghdr message;
        struct cmsghdr *one;
        hd_meta meta = {0, 0, 0, 0};
        ssize_t size;
        memset(&message, 0, sizeof message);
        message.msg_name = &from, message.msg_namelen = sizeof from;
        message.msg_iov = &part, message.msg_iovlen = 1;
        message.msg_control = &control, message.msg_controllen = sizeof control;
        size = recvmsg(sock, &message, MSG_TRUNC);
        if (size < 0 && errno == EAGAIN) {
            tell_drops();
            if (poll(on, 2, 1000) > 0 && on[1].revents) return 0;
            continue;
        }
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && errno == ENETDOWN) return hd_refuse("device-gone", "the interface is down; ip link set ... up");
        if (size < 0) return hd_refuse_errno(errno, "the packet socket");
        for (one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one))
            if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SO_TIMESTAMPNS) {
                struct timespec at;
                memcpy(&at, CMSG_DATA(one), sizeof at);
                meta.ns = (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
            }
        meta.original = (uint32_t)size;
        meta.flags = from.sll_pkttype == PACKET_OUTGOING ? 2 : 1;
        if (hd_offer(data, (size_t)size < sizeof data ? (size_t)size : sizeof data, &meta) < 0) return 0;
    }
}

int main(int argc, char **argv)
{
    static const hd_option OPTIONS[] = {{"promisc", "false: only what is for this machine; default true"}, {NULL, NULL}};
    static const hd_helper HELPER = {.type = TYPE, .summary = "packets of a network interface", .version = "1",
                                     .options = OPTIONS, .list = list, .open = open_interface, .capture = capture};
    return hd_run(argc, argv, &HELPER);
}
