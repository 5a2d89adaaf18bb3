// Package requests keeps the durable record of every request: who sent which command to which device, and what became
// of it. A record holds no bodies.
//
// A record is a set of facts that are only ever added, each with its time by the broker's clock, so that two versions
// can be merged in any order. The first fact, that the request was accepted, is durable before the command leaves; the
// others follow in batches. Where a request stands is worked out from its facts and the time, never stored.
package requests

import (
	"cmp"
	"slices"
	"time"

	"signaldevice/device"
)

// Millis is a moment in Unix milliseconds; 0 means that it has not come.
type Millis int64

// At returns the moment as Millis.
func At(t time.Time) Millis { return Millis(t.UnixMilli()) }

// Time returns the zero time for 0.
func (m Millis) Time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(m)).UTC()
}

// Record is what is known of one request. The zero value of every fact means "not yet".
type Record struct {
	ID        device.RequestID `json:"id"`
	Device    device.ID        `json:"device"`
	Client    device.ClientID  `json:"client"`
	Command   string           `json:"command"`
	Hash      []byte           `json:"hash"` // SHA-256 over device, command and payload: the same call has the same hash
	Key       string           `json:"key,omitempty"`
	Hold      bool             `json:"hold,omitempty"`
	Created   Millis           `json:"created"`
	DeliverBy Millis           `json:"deliver_by"`
	ReplyBy   Millis           `json:"reply_by"`

	Held      Millis `json:"held,omitempty"`      // stored to wait for its device
	Claimed   Millis `json:"claimed,omitempty"`   // about to be written to a connection, so that it cannot be cancelled
	Released  Millis `json:"released,omitempty"`  // the last claim of which it is known that nothing was written
	Sent      Millis `json:"sent,omitempty"`      // first written to a connection
	Delivered Millis `json:"delivered,omitempty"` // PUBACK of the device
	Failed    Millis `json:"failed,omitempty"`    // given up before it was written
	Cause     string `json:"cause,omitempty"`     // why it was given up
	Cancelled Millis `json:"cancelled,omitempty"`
	Progress  Millis `json:"progress,omitempty"` // first reply that was not final
	Answered  Millis `json:"answered,omitempty"` // the final reply
	Late      bool   `json:"late,omitempty"`     // it came after ReplyBy
	Dropped   Millis `json:"dropped,omitempty"`  // first reply that was over the limits of a request
	Seqs      []int  `json:"seqs,omitempty"`     // of the replies that were stored, ascending
	Bytes     int64  `json:"bytes,omitempty"`    // of those replies
	Read      []int  `json:"read,omitempty"`     // seqs that were read through the queue, their grace over; ascending
}

// merge adds the facts of another version of the same record. Of two versions that each count bytes of replies which the
// other lacks, the higher count stands.
func (r *Record) merge(o *Record) {
	r.Held = earlier(r.Held, o.Held)
	r.Claimed, r.Released = max(r.Claimed, o.Claimed), max(r.Released, o.Released)
	r.Sent = earlier(r.Sent, o.Sent)
	r.Delivered = earlier(r.Delivered, o.Delivered)
	if first := earlier(r.Failed, o.Failed); first != r.Failed || first == o.Failed && o.Cause < r.Cause {
		r.Failed, r.Cause = first, o.Cause
	}
	r.Cancelled = earlier(r.Cancelled, o.Cancelled)
	r.Progress = earlier(r.Progress, o.Progress)
	r.Answered = earlier(r.Answered, o.Answered)
	r.Late = r.Answered > r.ReplyBy
	r.Dropped = earlier(r.Dropped, o.Dropped)
	for _, seq := range o.Seqs {
		r.Seqs, _ = insert(r.Seqs, seq)
	}
	for _, seq := range o.Read {
		r.Read, _ = insert(r.Read, seq)
	}
	r.Bytes = max(r.Bytes, o.Bytes)
}

func earlier(a, b Millis) Millis {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// insert adds to an ascending set, and reports whether it was new.
func insert(set []int, v int) ([]int, bool) {
	i, found := slices.BinarySearch(set, v)
	if found {
		return set, false
	}
	return slices.Insert(set, i, v), true
}

// clone copies what merge and the facts may change.
func (r Record) clone() Record {
	r.Seqs, r.Read = slices.Clone(r.Seqs), slices.Clone(r.Read)
	return r
}

// HasReply reports whether a reply with this seq was stored.
func (r *Record) HasReply(seq int) bool {
	_, found := slices.BinarySearch(r.Seqs, seq)
	return found
}

// AddReply adds the fact that a reply was stored. It reports false when that was known.
func (r *Record) AddReply(seq, size int, final bool, at Millis) bool {
	var isNew bool
	if r.Seqs, isNew = insert(r.Seqs, seq); !isNew {
		return false
	}
	r.Bytes += int64(size)
	if final {
		r.Answered = earlier(r.Answered, at)
		r.Late = r.Answered > r.ReplyBy
	} else {
		r.Progress = earlier(r.Progress, at)
	}
	return true
}

// AddRead adds the fact that a reply was read through the queue and its grace is over. It reports false when that was
// known.
func (r *Record) AddRead(seq int) (isNew bool) {
	r.Read, isNew = insert(r.Read, seq)
	return isNew
}

// Reached reports whether the device itself has shown that it has the command.
func (r *Record) Reached() bool { return r.Delivered != 0 || r.Progress != 0 || r.Answered != 0 }

// Claim adds the fact that a held command is about to be written. It reports false when it was, or may have been, already.
func (r *Record) Claim(at Millis) (isNew bool) {
	if r.sent() != 0 || r.Reached() {
		return false
	}
	r.Claimed = max(at, r.Released+1)
	return true
}

// Release adds the fact that nothing was written by a claim. It reports false when that was known.
func (r *Record) Release(claim Millis) (isNew bool) {
	isNew = claim > r.Released
	r.Released = max(r.Released, claim)
	return isNew
}

// sent is when the command was written. With a claim that was left open it may not have been: nobody knows.
func (r *Record) sent() Millis {
	if r.Sent == 0 && r.Claimed > r.Released {
		return r.Claimed
	}
	return r.Sent
}

// State tells where the request stands at a moment, and for StateNoReply and StateExpired why.
func (r *Record) State(now time.Time) (device.State, string) {
	past := func(m Millis) bool { return now.UnixMilli() > int64(m) }
	written := r.sent() != 0 || r.Reached()
	switch {
	case r.Answered != 0:
		return device.StateAnswered, ""
	case r.Cancelled != 0 && !r.Reached():
		return device.StateCancelled, ""
	case r.Failed != 0 && !r.Reached():
		return device.StateExpired, r.Cause
	case r.Hold && !written && past(r.DeliverBy):
		return device.StateExpired, "the command could not be delivered before its deadline"
	case r.Hold && !written:
		return device.StateHeld, "" // even past ReplyBy: it may still be delivered
	case past(r.ReplyBy):
		return device.StateNoReply, r.silence()
	case r.Progress != 0:
		return device.StateProgress, ""
	case r.Delivered != 0:
		return device.StateDelivered, ""
	default: // one that is not held and has no fact yet is being written
		return device.StateSent, ""
	}
}

func (r *Record) silence() string {
	switch {
	case r.Dropped != 0:
		return "the device sent more replies than a request may have, and those beyond were dropped"
	case r.Progress != 0:
		return "the device reported progress but sent no final reply in time"
	case r.Delivered != 0:
		return "the device acknowledged the command and did not answer in time"
	case r.Sent != 0:
		return "the command was written to the device's connection and never acknowledged"
	default: // the process ended between the record, or the claim, and the first note
		return "it is not known whether the command reached the device: the broker was interrupted while sending it"
	}
}

// Open reports whether a reply may still be expected in time, or the command still delivered.
func (r *Record) Open(now time.Time) bool {
	switch s, _ := r.State(now); s {
	case device.StateSent, device.StateHeld, device.StateDelivered, device.StateProgress:
		return true
	}
	return false
}

// Request gives the record its outside form, as it stands at a moment.
func (r *Record) Request(now time.Time) device.Request {
	state, cause := r.State(now)
	return device.Request{
		ID: r.ID, Device: r.Device, Client: r.Client, Command: r.Command,
		State: state, Cause: cause, Hold: r.Hold,
		CreatedAt: r.Created.Time(), SentAt: r.Sent.Time(), DeliverBy: r.DeliverBy.Time(), ReplyBy: r.ReplyBy.Time(),
		Replies: len(r.Seqs), Late: r.Late, Timeline: r.timeline(now),
		Read: len(r.Seqs) > 0 && len(r.Read) >= len(r.Seqs),
	}
}

func (r *Record) timeline(now time.Time) []device.Step {
	steps := make([]device.Step, 0, 6)
	add := func(s device.State, at Millis, cause string) {
		if at != 0 {
			steps = append(steps, device.Step{State: s, At: at.Time(), Cause: cause})
		}
	}
	add(device.StateHeld, r.Held, "")
	add(device.StateSent, r.sent(), "")
	add(device.StateDelivered, r.Delivered, "")
	add(device.StateProgress, r.Progress, "")
	add(device.StateCancelled, r.Cancelled, "")
	switch state, cause := r.State(now); state {
	case device.StateExpired:
		add(state, cmp.Or(r.Failed, r.DeliverBy), cause)
	case device.StateNoReply:
		add(state, r.silentSince(), cause)
	case device.StateAnswered:
		if since := r.silentSince(); r.Late && since < r.Answered {
			add(device.StateNoReply, since, r.silence())
		}
	}
	add(device.StateAnswered, r.Answered, "")
	slices.SortStableFunc(steps, func(a, b device.Step) int { return cmp.Compare(a.At.UnixMilli(), b.At.UnixMilli()) })
	return steps
}

// silentSince is when the request turned to "no reply": a held command may have been written after its ReplyBy.
func (r *Record) silentSince() Millis {
	return max(r.ReplyBy, earlier(r.sent(), r.Delivered))
}
