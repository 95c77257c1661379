#include "sluice/app/access_log.hpp"

#include "sluice/app/log_format.hpp"
#include "sluice/app/log_output.hpp"
#include "sluice/app/record_format.hpp"

#include <pthread.h>

#include <utility>

namespace sluice {

// After a wake-up the reader lets this much time pass, so that one wake-up serves a batch of sessions.
constexpr Milliseconds batch_time{5};
// After so many it looks up, even if there are more: under load that never lets it come to an end of them,
// which is when records are lost, the losses are told all the same.
constexpr std::size_t batch_records_max = 1024;

std::expected<std::unique_ptr<AccessLog>, std::string> AccessLog::open(const config::AccessLog& settings) {
    auto output = open_log_output(settings.output, LogPace::batches);
    if (!output) return std::unexpected(std::move(output.error()));
    (*output)->set_formatter(make_bare_formatter());
    return std::unique_ptr<AccessLog>(new AccessLog(settings.format, std::move(*output)));
}

AccessLog::AccessLog(config::Format format, std::shared_ptr<LogOutput> output)
    : format_(format), output_(output), lines_("access", std::move(output)) {}

AccessLog::~AccessLog() {
    stop();
}

void AccessLog::start(Records& records, std::shared_ptr<spdlog::logger> losses) {
    records_ = &records;
    thread_ = std::thread([this, &records, losses = std::move(losses)] {
        ::pthread_setname_np(::pthread_self(), "sluice-access");
        read(records, *losses);
    });
}

void AccessLog::stop() {
    if (!thread_.joinable()) return;
    output_->hurry();
    records_->stop();
    thread_.join();
}

void AccessLog::read(Records& records, spdlog::logger& losses) {
    bool last = false;
    while (!last) {
        records.wait();
        // Asked before the records are read: what was pushed before the stop is then written.
        last = records.stopped();
        if (!last) std::this_thread::sleep_for(batch_time);
        while (write_batch(records)) tell_losses(records, losses, false);
        tell_losses(records, losses, last);
    }
}

bool AccessLog::write_batch(Records& records) {
    SessionRecord record;
    std::size_t count = 0;
    while (count < batch_records_max && records.pop(record)) {
        lines_.log(spdlog::level::info, format_record(record, format_));
        ++count;
    }
    lines_.flush();
    return count == batch_records_max;
}

void AccessLog::tell_losses(const Records& records, spdlog::logger& losses, bool at_once) {
    const std::uint64_t refused = output_->lines_lost();
    const std::uint64_t lost = records.lost() + refused;
    const Time now = Clock::now();
    if (lost == losses_told_ || (now < next_telling_ && !at_once)) return;
    losses.warn("access log: {} lines were lost, because {}", lost - losses_told_,
                refused > refusals_told_ ? output_->why_lost()
                                         : "sessions ended faster than their lines could be written");
    losses_told_ = lost;
    refusals_told_ = refused;
    next_telling_ = now + std::chrono::seconds(1);
}

std::uint64_t AccessLog::lines_lost() const noexcept {
    return output_->lines_lost();
}

}  // namespace sluice
