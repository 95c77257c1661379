#include "sluice/net/datagram_sender.hpp"

#include <netinet/udp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace sluice {

namespace {

// Writes one control message behind those that stand there already.
template <class T>
void add_control(msghdr& header, int level, int type, const T& value) noexcept {
    auto* place =
        reinterpret_cast<cmsghdr*>(static_cast<std::byte*>(header.msg_control) + header.msg_controllen);
    place->cmsg_level = level;
    place->cmsg_type = type;
    place->cmsg_len = CMSG_LEN(sizeof(value));
    std::memcpy(CMSG_DATA(place), &value, sizeof(value));
    header.msg_controllen += CMSG_SPACE(sizeof(value));
}

void add_source(msghdr& header, const ReachedAddress& from) noexcept {
    if (from.is_v4()) {
        in_pktinfo info{};
        std::memcpy(&info.ipi_spec_dst, &from.host.s6_addr[12], sizeof(info.ipi_spec_dst));
        add_control(header, IPPROTO_IP, IP_PKTINFO, info);
    } else {
        in6_pktinfo info{};
        info.ipi6_addr = from.host;
        info.ipi6_ifindex = from.interface;
        add_control(header, IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
}

// The kernel's ways to say that it does not cut up this run: no checksum offload on the way (EIO), a segment
// longer than the way's MTU (EINVAL, EMSGSIZE), or a kernel without UDP_SEGMENT (EINVAL).
bool is_refusal_to_segment(int error) noexcept {
    return error == EIO || error == EINVAL || error == EMSGSIZE;
}

// What the network may say of an earlier datagram (ICMP). The kernel tells it to whoever comes next.
bool is_news_of_earlier(int error) noexcept {
    return error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH || error == EHOSTDOWN ||
           error == ENOPROTOOPT || error == EPROTO;
}

}  // namespace

DatagramSender::Outcome DatagramSender::send(int fd, std::span<const DatagramMessage> messages,
                                             const DatagramTarget& target, WhenFull when_full,
                                             std::uint16_t& segment_max) noexcept {
    Outcome outcome;
    Cursor next;
    bool tried = false;   // the datagram at `next` has met one error already
    int first_error = 0;  // and which
    while (next.message < messages.size()) {
        const std::size_t prepared = prepare(messages, next, target, segment_max);
        std::size_t done = 0;
        while (done < prepared) {
            ++outcome.calls;
            const int taken = submit(fd, done, prepared - done);
            if (taken > 0) {
                for (int index = 0; index < taken; ++index, ++done) {
                    outcome.sent += entries_[done].datagrams;
                    outcome.sent_bytes += entries_[done].bytes;
                }
                next = entries_[done - 1].end;
                tried = false;
                continue;
            }
            const int error = errno;
            if (error == EINTR) continue;
            const Entry& entry = entries_[done];
            if (entry.datagrams > 1 && is_refusal_to_segment(error)) {
                segment_max = error == EIO ? 0 : static_cast<std::uint16_t>(entry.segment - 1);
                break;  // prepared anew, from this entry on
            }
            if (error == EAGAIN && when_full == WhenFull::stop) {
                outcome.messages_done = next.message;
                return outcome;
            }
            outcome.error = error;
            // An unconnected socket hears of nothing earlier; and what is said twice was said of this one.
            const bool news = target.to == nullptr && is_news_of_earlier(error);
            if (!tried && error != EAGAIN) {
                outcome.refused += news ? 1 : 0;
                first_error = error;
                tried = true;
                continue;
            }
            if (tried && news && first_error == error) --outcome.refused;
            outcome.lost += entry.datagrams;
            if (error == EMSGSIZE) outcome.oversized += entry.datagrams;
            tried = false;
            next = entry.end;
            ++done;
        }
    }
    outcome.messages_done = messages.size();
    return outcome;
}

// As sendmmsg. One plain datagram to a peer is the common case, and send(2) does less for it.
int DatagramSender::submit(int fd, std::size_t first, std::size_t count) noexcept {
    constexpr int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    const msghdr& header = headers_[first].msg_hdr;
    const bool plain = header.msg_name == nullptr && header.msg_control == nullptr && header.msg_iovlen == 1;
    if (count > 1 || !plain)
        return ::sendmmsg(fd, headers_.data() + first, static_cast<unsigned>(count), flags);
    return ::send(fd, header.msg_iov->iov_base, header.msg_iov->iov_len, flags) < 0 ? -1 : 1;
}

// Fills entries_ and headers_ with what comes from `begin` on; returns how many.
std::size_t DatagramSender::prepare(std::span<const DatagramMessage> messages, Cursor begin,
                                    const DatagramTarget& target, std::uint16_t segment_max) noexcept {
    pieces_used_ = 0;
    std::size_t count = 0;
    while (begin.message < messages.size() && count < entries_max && pieces_used_ < pieces_max) {
        const std::uint32_t segment = messages[begin.message].segment;
        const std::size_t first_piece = pieces_used_;
        const Entry entry =
            segment == 0 || segment > segment_max ? take_one(messages, begin) : take_run(messages, begin);
        entries_[count] = entry;
        msghdr& header = headers_[count].msg_hdr;
        header = {};
        header.msg_iov = pieces_.data() + first_piece;
        header.msg_iovlen = pieces_used_ - first_piece;
        address(count, target);
        begin = entry.end;
        ++count;
    }
    return count;
}

void DatagramSender::address(std::size_t entry, const DatagramTarget& target) noexcept {
    msghdr& header = headers_[entry].msg_hdr;
    // sendmsg does not write there; the field is shared with recvmsg, which does.
    header.msg_name = const_cast<sockaddr*>(target.to);
    header.msg_namelen = target.to_length;
    header.msg_control = controls_[entry].bytes.data();
    if (target.from.told()) add_source(header, target.from);
    if (entries_[entry].datagrams > 1)
        add_control(header, IPPROTO_UDP, UDP_SEGMENT, static_cast<std::uint16_t>(entries_[entry].segment));
    if (header.msg_controllen == 0) header.msg_control = nullptr;
}

DatagramSender::Entry DatagramSender::take_one(std::span<const DatagramMessage> messages,
                                               Cursor begin) noexcept {
    const DatagramMessage& message = messages[begin.message];
    const std::size_t bytes = std::min<std::size_t>(message.segment, message.bytes.size() - begin.offset);
    add_piece(message, begin.offset, bytes);
    const bool ends_message = begin.offset + bytes == message.bytes.size();
    return {.begin = begin,
            .end = ends_message ? Cursor{begin.message + 1, 0} : Cursor{begin.message, begin.offset + bytes},
            .datagrams = 1,
            .segment = message.segment,
            .bytes = bytes};
}

// Datagrams of one size, the last of which may be shorter but not empty: an empty one would be no segment.
// REQUIRES: the message at `begin` is not empty
DatagramSender::Entry DatagramSender::take_run(std::span<const DatagramMessage> messages,
                                               Cursor begin) noexcept {
    Entry run{
        .begin = begin, .end = begin, .datagrams = 0, .segment = messages[begin.message].segment, .bytes = 0};
    const std::size_t segments = std::min<std::size_t>(segments_max, run_bytes_max / run.segment);
    while (run.end.message < messages.size() && run.datagrams < segments && pieces_used_ < pieces_max) {
        const DatagramMessage& message = messages[run.end.message];
        const bool alone = message.segment == message.bytes.size();
        const bool fits =
            alone ? message.segment > 0 && message.segment <= run.segment : message.segment == run.segment;
        if (!fits) break;
        const std::size_t bytes = std::min<std::size_t>(message.bytes.size() - run.end.offset,
                                                        (segments - run.datagrams) * run.segment);
        add_piece(message, run.end.offset, bytes);
        run.datagrams += static_cast<std::uint32_t>((bytes + run.segment - 1) / run.segment);
        run.bytes += bytes;
        run.end.offset += bytes;
        if (run.end.offset == message.bytes.size()) run.end = {run.end.message + 1, 0};
        if (bytes % run.segment != 0) break;  // the short one is the last one
    }
    // One that is longer than a run may be: then it goes alone.
    if (run.datagrams == 0) return take_one(messages, begin);
    return run;
}

void DatagramSender::add_piece(const DatagramMessage& message, std::size_t offset,
                               std::size_t bytes) noexcept {
    // sendmsg only reads.
    pieces_[pieces_used_++] = {const_cast<std::byte*>(message.bytes.data() + offset), bytes};
}

}  // namespace sluice
