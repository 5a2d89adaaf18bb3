package device

import (
	"encoding/json"
	"time"
)

// Limits of one request and of one client's unread requests at one device (design: "Requests").
const (
	MaxRepliesPerRequest = 64
	MaxReplyBytes        = 1 << 20 // all replies of one request
	MaxUnreadRequests    = 50
	MaxUnreadBytes       = 4 << 20
)

// State is where a request stands. It moves forward only, but for StateNoReply, which a late reply turns into
// StateAnswered.
type State string

// States that a request record has.
const (
	StateSent      State = "sent"      // written to the device's connection, no PUBACK yet
	StateHeld      State = "held"      // waits for the device to connect
	StateDelivered State = "delivered" // the device sent its PUBACK
	StateProgress  State = "progress"  // the device replied, not finally
	StateAnswered  State = "answered"  // the final reply is in
	StateNoReply   State = "no_reply"  // reply_by has passed; provisional
	StateExpired   State = "expired"   // never delivered in time
	StateCancelled State = "cancelled" // held, then cancelled by its client
)

// RecordStates returns them.
func RecordStates() []State {
	return []State{
		StateSent, StateHeld, StateDelivered, StateProgress, StateAnswered, StateNoReply, StateExpired, StateCancelled,
	}
}

// States that only a reader of replies is told.
const (
	StateAlreadyRead State = "already_read" // its client read the reply and the grace is over
	StateGone        State = "gone"         // the record has a reply, queue and cache do not
	StateUnverified  State = "unverified"   // the broker cannot be asked
	StateNotFound    State = "not_found"    // no such request of this client
)

// Step is one entry of a request's time line.
type Step struct {
	State State
	At    time.Time // by the broker's clock
	Cause string    // for no_reply, expired: why, in one short sentence; else ""
}

// Request is one command sent to one device by one client, as its durable record tells. It holds no bodies.
type Request struct {
	ID        RequestID
	Device    ID
	Client    ClientID
	Command   string
	State     State
	Cause     string // for no_reply and expired
	Hold      bool
	CreatedAt time.Time // when the broker accepted it
	SentAt    time.Time // first written to a connection; zero: not yet
	DeliverBy time.Time
	ReplyBy   time.Time
	Replies   int    // replies that came, read or not
	Late      bool   // the final reply came after ReplyBy
	Timeline  []Step // in order of time

	Queued bool // a reply is in the output queue now
	Read   bool // every reply was read through the queue, and its grace is over
}

// Status is what a device says of its own reply, or what the API says of bytes that fit no form.
type Status string

// The statuses of a reply.
const (
	StatusOK       Status = "ok"
	StatusError    Status = "error"
	StatusProgress Status = "progress"
	StatusUnparsed Status = "unparsed" // bytes that fit no form, given as they came
)

// Reply is one message of a device that answers a request. Request and Seq name it: a second one with the same pair is
// a duplicate, and the first body wins.
type Reply struct {
	Request    RequestID
	Device     ID
	Mailbox    Mailbox
	Command    string // "" when the request record is gone
	Seq        int
	Final      bool
	Late       bool      // arrived after reply_by
	ReceivedAt time.Time // by the broker's clock
	Body       []byte    // as the device published it
	Position   []byte    // its place in the device's output queue, for Acknowledge; opaque
}

// Key names a reply among all others.
func (r Reply) Key() ReplyKey { return ReplyKey{r.Request, r.Seq} }

// ReplyKey is the identity of a reply.
type ReplyKey struct {
	Request RequestID
	Seq     int
}

// Answer is the body of a reply as its reader gets it.
type Answer struct {
	Status Status
	Result json.RawMessage // nil: none
	Error  *AnswerError    // nil: none
}

// AnswerError is a device's own account of what went wrong.
type AnswerError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Envelope is the JSON form of a reply on the wire (design: "Wire format to the camera"). The broker reads only
// RequestID, Seq and Final.
type Envelope struct {
	RequestID RequestID       `json:"request_id"`
	Status    Status          `json:"status"`
	Result    json.RawMessage `json:"result"`
	Error     *AnswerError    `json:"error"`
	Seq       int             `json:"seq"`
	Final     *bool           `json:"final"`
}

// IsFinal applies the default: a reply is final unless it says otherwise or its status is progress.
func (e Envelope) IsFinal() bool {
	if e.Final != nil {
		return *e.Final
	}
	return e.Status != StatusProgress
}

// Placeholder is what the API writes into a rendered text line where the broker puts the request id.
const Placeholder = "{request_id}"
