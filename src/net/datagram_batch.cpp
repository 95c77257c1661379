#include "sluice/net/datagram_batch.hpp"

#include "sluice/base/check.hpp"

#include <netinet/udp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace sluice {

namespace {

template <class T>
T payload_of(const cmsghdr& header) noexcept {
    T value;
    std::memcpy(&value, CMSG_DATA(&header), sizeof(value));
    return value;
}

in6_addr mapped(in_addr address) noexcept {
    in6_addr result{};
    result.s6_addr[10] = result.s6_addr[11] = 0xff;
    std::memcpy(&result.s6_addr[12], &address, sizeof(address));
    return result;
}

ReachedAddress reached_by(const in_pktinfo& info) noexcept {
    // Not ipi_addr: a broadcast one is nobody's source. The interface stays open, so that the reply takes the
    // way that the routes say.
    return {.host = mapped(info.ipi_spec_dst), .interface = 0};
}

ReachedAddress reached_by(const in6_pktinfo& info) noexcept {
    if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) return {};
    const bool needs_interface = IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr);
    return {.host = info.ipi6_addr,
            .interface = needs_interface ? static_cast<std::uint32_t>(info.ipi6_ifindex) : 0};
}

}  // namespace

DatagramBatch::DatagramBatch(std::size_t message_bytes_max)
    : bytes_(std::max(stride * messages_max, message_bytes_max)), message_bytes_max_(message_bytes_max) {
    void* memory =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<std::byte*>(memory);
}

DatagramBatch::~DatagramBatch() {
    ::munmap(memory_, bytes_);
}

DatagramBatch::Received DatagramBatch::receive(int fd, Room room, bool named) noexcept {
    const std::size_t wanted = room == Room::many ? messages_max : 1;
    for (std::size_t index = 0; index < wanted; ++index) {
        pieces_[index] = {memory_ + index * stride, room == Room::many ? udp_bytes_max : message_bytes_max_};
        msghdr& header = headers_[index].msg_hdr;
        header = {};
        header.msg_iov = &pieces_[index];
        header.msg_iovlen = 1;
        // Unix sockets have nothing to tell, but their peers may send descriptors unasked: where there is no
        // room for them the kernel drops them.
        if (room == Room::many) {
            header.msg_control = places_[index].control;
            header.msg_controllen = sizeof(places_[index].control);
        }
        if (!named) continue;
        header.msg_name = &places_[index].sender;
        header.msg_namelen = sizeof(places_[index].sender);
    }
    int count = -1;
    do {
        count = ::recvmmsg(fd, headers_.data(), static_cast<unsigned>(wanted), MSG_DONTWAIT, nullptr);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return {.messages = {}, .drained = errno == EAGAIN, .error = errno == EAGAIN ? 0 : errno};
    const auto found = static_cast<std::size_t>(count);
    for (std::size_t index = 0; index < found; ++index) describe(index, headers_[index], named);
    // A call that stops early has met the empty queue, or an error that came while it ran: then there is an
    // event for the error, and it finds what is left.
    return {.messages = std::span(messages_).first(found), .drained = found < wanted, .error = 0};
}

void DatagramBatch::describe(std::size_t index, const mmsghdr& header, bool named) noexcept {
    DatagramMessage& message = messages_[index];
    message = {};
    message.bytes = {static_cast<const std::byte*>(pieces_[index].iov_base), header.msg_len};
    message.segment = header.msg_len;
    message.truncated = (header.msg_hdr.msg_flags & MSG_TRUNC) != 0;
    // unix(7), BUGS: a path that fills sun_path is reported one byte longer than it is.
    if (named)
        message.sender = std::as_bytes(std::span(&places_[index].sender, 1))
                             .first(std::min<std::size_t>(header.msg_hdr.msg_namelen, sizeof(sockaddr_un)));
    // CMSG_NXTHDR takes no const header, and changes nothing.
    auto* whole = const_cast<msghdr*>(&header.msg_hdr);
    for (cmsghdr* control = CMSG_FIRSTHDR(whole); control != nullptr; control = CMSG_NXTHDR(whole, control)) {
        if (control->cmsg_level == IPPROTO_UDP && control->cmsg_type == UDP_GRO) {
            const auto segment = static_cast<std::uint32_t>(payload_of<int>(*control));
            SLUICE_CHECK(segment > 0);
            message.segment = std::min(segment, header.msg_len);
        } else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
            message.reached = reached_by(payload_of<in_pktinfo>(*control));
        } else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
            // An IPv4 datagram brings both on a socket of both families, and the other one knows better.
            const auto info = payload_of<in6_pktinfo>(*control);
            if (!IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr)) message.reached = reached_by(info);
        }
    }
}

}  // namespace sluice
