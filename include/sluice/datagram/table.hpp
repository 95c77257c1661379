#pragma once

#include "sluice/datagram/sessions.hpp"
#include "sluice/net/datagram_batch.hpp"
#include "sluice/net/datagram_sender.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

// The datagrams of one worker: its listeners, its sessions, and what goes between them. Stands beside the
// table of sessions that have connections, and is asked by the worker in the same turns.
//
// Datagrams are received many at a time and sent many at a time, in order within a session, each as it came:
// boundaries are kept, empty ones are datagrams, and what is longer than its memory is lost as a whole.
class DatagramTable {
  public:
    struct Listening {
        OwnedFd socket;
        const config::Listener* settings;
        Pool* pool;
        Seat::Count* sessions;  // of the listener, over all workers
        Seat::Count* wanted;    // likewise: DatagramListener::wanted
        SocketOptions upstream_options;
        bool local;                      // unix
        std::uint16_t port_offset = 0;   // in the listener's range of ports
        const Endpoint* bind = nullptr;  // which of the listener's addresses
    };

    // Throws std::bad_alloc.
    DatagramTable(const DatagramServices& services, std::vector<Listening> listening);
    // Its listeners have addresses.
    DatagramTable(const DatagramTable&) = delete;
    DatagramTable& operator=(const DatagramTable&) = delete;

    // Begins to watch its listeners.
    void start(Time now) noexcept;

    // One of its questions was answered: watch_datagrams or watch_datagram_upstream.
    void answer(const Completion& completion, Time now) noexcept;

    // Goes on with what the budget of the last turn left over.
    void run(Time now) noexcept;
    // Ends what is idle and tries again what was held.
    void expire(Time now) noexcept;
    // When run() or expire() should be called again; Time::min(): at once.
    Time next() noexcept;

    // From now on datagrams of unknown clients are dropped; once no session is left the listeners close.
    void drain() noexcept { draining_ = true; }
    void end_all(End reason, Time now) noexcept { sessions_.end_all(reason, now); }

    std::uint32_t size() const noexcept { return sessions_.size(); }
    // After drain(): nothing is left, and nothing is asked.
    bool finished() const noexcept;
    std::uint64_t system_calls() const noexcept { return system_calls_; }

  private:
    void listener_answered(DatagramListener& listener, const Completion& completion, Time now) noexcept;
    void watch(DatagramListener& listener) noexcept;
    void unwatch(DatagramListener& listener) noexcept;
    void close_listeners() noexcept;

    void run_listeners(Time now) noexcept;
    void read_by_clock(Time now) noexcept;
    void change_pace(DatagramListener& listener, Time now) noexcept;
    void read_clients(DatagramListener& listener, Time now) noexcept;
    void upload(DatagramListener& listener, std::span<const DatagramMessage> messages, Time now) noexcept;
    void upload_run(DatagramListener& listener, std::span<const DatagramMessage> messages, std::uint64_t hash,
                    Time now) noexcept;
    void lose_truncated(DatagramListener& listener, const DatagramMessage& message, std::uint64_t hash,
                        Time now) noexcept;
    std::size_t upload_of(DatagramSession& session, std::span<const DatagramMessage> messages,
                          Time now) noexcept;
    DatagramSender::Outcome send_upstream(DatagramSession& session,
                                          std::span<const DatagramMessage> messages) noexcept;
    void requests_taken(DatagramSession& session, Time now) noexcept;

    void read_upstream(DatagramSession& session, Time now) noexcept;
    void download(DatagramSession& session, std::span<const DatagramMessage> messages, Time now) noexcept;
    DatagramSender::Outcome send_to_client(DatagramSession& session,
                                           std::span<const DatagramMessage> messages) noexcept;
    void downloaded(DatagramSession& session, const DatagramSender::Outcome& outcome, Time now) noexcept;

    void hold(DatagramSession& session, HeldMessage& held, const DatagramMessage& message) noexcept;
    void retry_upload(DatagramSession& session, Time now) noexcept;
    void retry_download(DatagramSession& session, Time now) noexcept;
    void account(DatagramSession& session, const DatagramSender::Outcome& outcome, Time now) noexcept;
    void lose(Loss why, std::uint64_t datagrams) noexcept;
    void warn_of_long_messages(const DatagramListener& listener, std::uint64_t datagrams, Time now) noexcept;
    void queue(DatagramSession& session) noexcept;

    DatagramServices services_;
    DatagramSessions::Listeners listeners_;
    DatagramSessions sessions_;
    DatagramBatch batch_;
    DatagramSender sender_;
    std::array<std::uint64_t, DatagramBatch::messages_max> hashes_;  // of the batch's messages
    std::array<DatagramMessage, DatagramBatch::messages_max> run_;   // those of one client, in order
    List<DatagramListener, DatagramClockTag> by_clock_;
    Time clock_at_ = time_never;  // when those are read next; never: there are none
    List<DatagramSession, DatagramRunTag> run_queue_;
    std::uint32_t retry_class_ = 0;
    Time resume_at_ = time_never;  // a listener that could not be watched or read is tried again then
    bool draining_ = false;
    bool closing_ = false;  // the listeners' questions are being taken back
    std::uint64_t system_calls_ = 0;
    RareWarning long_messages_;
};

}  // namespace sluice
