#include "sluice/flow/round.hpp"

#include "sluice/base/check.hpp"

#include <cstdint>
#include <utility>

namespace sluice {

static_assert(Round::read_bytes_max <= UINT16_MAX);  // Flow::begun_

Round::Round() : memory_(std::make_unique_for_overwrite<std::byte[]>(stride * flows_max)) {}

void Round::add(Flow& flow, Socket& source, Socket& target) noexcept {
    SLUICE_CHECK(!full());
    members_[count_] = {&flow, &source, &target};
    calls_[count_] =
        CopyChannel::receive_call(source.fd.get(), {memory_.get() + count_ * stride, read_bytes_max});
    ++count_;
}

bool Round::read(Lane& lane) noexcept {
    const std::size_t count = std::exchange(count_, 0);
    if (count == 0) return false;
    lane.system_calls += lane.calls.make(std::span(calls_).first(count));
    bool all_read = true;
    for (std::size_t index = 0; index < count; ++index) {
        const Member member = members_[index];
        const bool sends = member.flow->received(calls_[index], *member.source, lane);
        all_read = all_read && sends && !member.source->readable;
        if (!sends) continue;
        // To the front: who stands there has been heard already.
        calls_[senders_] = member.flow->send_call(*member.target);
        members_[senders_++] = member;
    }
    return all_read;
}

void Round::send(Lane& lane) noexcept {
    if (senders_ == 0) return;
    lane.system_calls += lane.calls.make(std::span(calls_).first(senders_));
    sent(lane);
}

void Round::answer(std::size_t index, std::ptrdiff_t result) noexcept {
    SLUICE_CHECK(index < senders_);
    calls_[index].transfer = verdict_of(calls_[index], result);
}

void Round::sent(Lane& lane) noexcept {
    const std::size_t senders = std::exchange(senders_, 0);
    for (std::size_t index = 0; index < senders; ++index)
        members_[index].flow->sent(calls_[index], *members_[index].target, lane);
}

}  // namespace sluice
