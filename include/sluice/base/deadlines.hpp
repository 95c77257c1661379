#pragma once

#include "sluice/base/check.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/base/list.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice {

// What an object inherits to have one deadline of the kind that the tag names.
template <class Tag>
class DeadlineNode : public ListNode<Tag> {
  private:
    template <class, class>
    friend class Deadlines;
    Time since_{};
    std::uint32_t class_ = 0;
};

// The deadlines of many objects, of which few ever pass: nothing here costs an idle object anything.
//
// All objects whose deadline has the same duration stand in one list, in the order of their last touch, so
// only the fronts are ever looked at. A touch moves the object to the back, but only once 1/128 of the
// duration has passed since the last move: busy objects are moved rarely. The price: a deadline passes no
// earlier than asked and at most 1/128 later.
template <class T, class Tag>
class Deadlines {
  public:
    // The class of this duration; 0 is a class whose deadlines never pass. Made on first use (allocates): ask
    // at start-up and keep the number.
    std::uint32_t class_of(Nanoseconds duration) {
        for (std::uint32_t index = 0; index < classes_.size(); ++index)
            if (classes_[index]->duration == duration) return index;
        classes_.push_back(std::make_unique<Class>(duration));
        return static_cast<std::uint32_t>(classes_.size() - 1);
    }

    // Starts (or restarts) the object's deadline in this class.
    void start(T& object, std::uint32_t deadline_class, Time now) noexcept {
        Node& node = object;
        node.unlink();
        node.class_ = deadline_class;
        node.since_ = now;
        if (classes_[deadline_class]->duration > Nanoseconds(0))
            classes_[deadline_class]->objects.push_back(object);
    }

    // The object showed life: its deadline begins anew.
    void touch(T& object, Time now) noexcept {
        Node& node = object;
        if (!node.linked() || now - node.since_ < slack(classes_[node.class_]->duration)) return;
        start(object, node.class_, now);
    }

    void stop(T& object) noexcept { static_cast<Node&>(object).unlink(); }

    // When expired() should be asked again; time_never when there is no deadline.
    Time next() noexcept {
        Time earliest = time_never;
        for (auto& each : classes_)
            if (!each->objects.empty()) earliest = std::min(earliest, passes(*each));
        return earliest;
    }

    // An object whose deadline has passed, taken out, or null.
    T* expired(Time now) noexcept {
        for (auto& each : classes_)
            if (!each->objects.empty() && passes(*each) <= now) return &each->objects.pop_front();
        return nullptr;
    }

  private:
    using Node = DeadlineNode<Tag>;
    struct Class {
        explicit Class(Nanoseconds length) : duration(length) {}
        Nanoseconds duration;
        List<T, Tag> objects;  // ordered by since_
    };

    static Nanoseconds slack(Nanoseconds duration) noexcept { return duration / 128; }
    static Time passes(Class& each) noexcept {
        const Node& first = each.objects.front();
        return first.since_ + each.duration + slack(each.duration);
    }

    std::vector<std::unique_ptr<Class>> classes_;  // few: as many as there are different durations
};

}  // namespace sluice
