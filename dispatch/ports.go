package dispatch

import (
	"context"
	"encoding/json"
	"time"

	"signaldevice/device"
)

// Broker is the message broker as this package needs it. Errors are device.Errors: BrokerUnavailable when the broker
// was not reached and nothing happened, OutcomeUnknown when a call was cut after it was sent, else the broker's own
// answer. Implementations are safe for concurrent use and keep to the context's deadline.
type Broker interface {
	// Send returns once the request record is durable and, within wait, the device has acknowledged.
	// repeated: the idempotency key named a request that existed.
	Send(ctx context.Context, s Send) (req device.Request, repeated bool, err error)
	// Cancel takes a held command back. AlreadyDelivered, RequestNotFound.
	Cancel(ctx context.Context, m device.Mailbox, id device.RequestID) (device.Request, error)
	// Requests tells the state of each id, in that order; StateNotFound for one that is not of this mailbox.
	// A zero mailbox means anyone's. At most 100 ids.
	Requests(ctx context.Context, m device.Mailbox, ids []device.RequestID) ([]device.Request, error)
	// ListRequests pages through request records, newest first; next is "" on the last page. A page may be short, or
	// empty, and not be the last. It looks at the mailbox of the filter, not at its client.
	ListRequests(ctx context.Context, f RequestFilter) (items []device.Request, next string, err error)

	// Drain reads replies in queue order and removes nothing.
	Drain(ctx context.Context, q Drain) (page DrainPage, err error)
	// Acknowledge removes replies: now, or after a grace that starts with the first Acknowledge of each.
	Acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration) error
	// Watch calls fn for each hint until ctx ends or the stream breaks; fn must not block. ready is called once hints
	// flow. Hints are at most once: whoever is woken reads.
	Watch(ctx context.Context, ready func(), fn func(Hint)) error

	CreateDevice(ctx context.Context, d NewDevice) (Registration, error)
	Enrol(ctx context.Context, e Enrolment) (Registration, error)
	CreateEnrolmentCode(ctx context.Context, c NewCode) (Code, error)
	Device(ctx context.Context, id device.ID) (device.Device, error)
	Devices(ctx context.Context, f DeviceFilter) (items []device.Device, next string, err error)
	DeleteDevice(ctx context.Context, id device.ID) error
	AddCertificate(ctx context.Context, id device.ID, c Credential) (device.Certificate, error)
	RevokeCertificate(ctx context.Context, id device.ID, fingerprint string) error

	// Ping asks whether the broker answers. It has no effect.
	Ping(ctx context.Context) error
}

// Cache keeps replies until their client has read them (I2, I3). Errors: CacheFull from Put, nothing was stored;
// CacheUnavailable, the call was not sent; OutcomeUnknown, the connection was lost after the call was sent, so replies
// may have been taken, and nobody may report "no reply". Implementations are safe for concurrent use.
type Cache interface {
	// Put stores each reply for the cache's TTL, counted from this write. A reply whose key is there is a Duplicate and
	// never overwrites; one that was read, grace over, is Read. One result for each reply, in order. When Put returns
	// nil and Durable is true, the replies survive the death of this process and of the cache's, but for Unsafe ones.
	// All of one mailbox are stored or none; on an error, some mailboxes' may be: put them again.
	Put(ctx context.Context, replies []device.Reply) ([]PutResult, error)
	// Take returns replies of one mailbox from one device and marks them read. With ids: the unread replies of those
	// requests, and those first read less than grace ago. Without: every unread one, at most 100. The first read starts
	// the grace, re-reads do not extend it; grace 0 removes the body at once. A mark without body stays until the
	// record's own expiry.
	Take(ctx context.Context, q Take) (Taken, error)
	// Unread tells which requests of the mailbox at the device have unread replies here, and the bytes of those replies.
	Unread(ctx context.Context, m device.Mailbox, dev device.ID) ([]device.RequestID, int64, error)
	// Records counts the replies in the cache, read ones in their grace included, marks and indexes not.
	Records(ctx context.Context) (int64, error)
	// Durable tells whether a stored reply survives a crash, so that it may leave the output queue (I2).
	Durable() bool
	// Ping asks whether the cache can be written to and read. It has no effect.
	Ping(ctx context.Context) error
}

// Catalogue knows the commands. It may be replaced under a running program; each call sees one whole version.
type Catalogue interface {
	// Commands returns every command in the file's order.
	Commands() []device.Command
	// CommandsOf returns the commands that a device with these labels has, in the file's order.
	CommandsOf(labels device.Labels) []device.Command
	// Command returns one, or UnknownCommand.
	Command(name string) (device.Command, error)
	// Prepare checks the arguments and makes them ready for the broker, in the form that the device speaks. labels tells
	// the device's labels; it is called at most once, after all other checks, and only where devices differ in this
	// command. UnknownCommand, also where the device does not have it; InvalidArguments with every fault and its place;
	// the error of labels as it is. args nil or null means an empty object.
	Prepare(name string, args json.RawMessage, labels func() (device.Labels, error)) (device.Payload, error)
	// Answer reads a reply's body: the JSON envelope, else one of the command's text patterns, else StatusUnparsed.
	Answer(command string, id device.RequestID, body []byte) device.Answer
}

// Caller is who makes a call, as the credential tells (I3).
type Caller struct {
	Client device.ClientID
	Labels device.Labels                // condition on the devices that the caller may touch; empty: any device
	May    func(permission string) bool // nil: nothing
}

func (c Caller) may(permission string) bool { return c.May != nil && c.May(permission) }

// Send is a command on its way to the broker.
type Send struct {
	Device            device.ID
	Mailbox           device.Mailbox
	Client            device.ClientID
	Command           device.Command
	Payload           device.Payload
	IdempotencyKey    string        // "" none
	Labels            device.Labels // the caller's condition; the broker checks it
	WaitDelivered     time.Duration // how long to wait for the device's PUBACK
	CachedUnread      []device.RequestID
	CachedUnreadBytes int64
}

// RequestFilter chooses request records that match all of it. The zero value of a field means any.
type RequestFilter struct {
	Mailbox device.Mailbox  // of one client; the Dispatcher sets it
	Client  device.ClientID // of a caller that may read everyone's requests
	Device  device.ID
	States  []device.State // one of them, as it stands now
	Command string
	Since   time.Time // created then or later
	Until   time.Time // created before
	Limit   int       // 1 to 1000
	Cursor  string
}

// Drain says what to read of a device's output queue.
type Drain struct {
	Device   device.ID
	Mailbox  device.Mailbox     // zero: everyone's
	Requests []device.RequestID // replies in their grace are shown for these only; at most 100
	After    []byte             // a position to start after; nil: the beginning
	Limit    int                // 1 to 1000
}

// DrainPage is what one Drain read.
type DrainPage struct {
	Replies []DrainedReply
	More    bool // there are more after the last position
}

// DrainedReply is a reply with what the queue knows of it.
type DrainedReply struct {
	device.Reply
	Read bool // it was read before and waits for its grace
}

// Hint tells that something changed. It is at most once; whoever is woken reads.
type Hint struct {
	Reply    *ReplyHint
	Request  *RequestHint
	Presence *PresenceHint
}

// ReplyHint tells that a reply is in its device's output queue.
type ReplyHint struct {
	Device  device.ID
	Mailbox device.Mailbox
	Request device.RequestID
	Seq     int
	Final   bool
}

// RequestHint tells that a request has come to a state. That it was answered, a ReplyHint tells.
type RequestHint struct {
	Device  device.ID
	Mailbox device.Mailbox
	Request device.RequestID
	State   device.State
}

// PresenceHint tells that a device came or went.
type PresenceHint struct {
	Device device.ID
	Labels device.Labels // of the device now; nil: none, or it is no longer registered
	Online bool
	Since  time.Time
}

// Credential is either a certificate that the device brings or a CSR for the device CA to sign. Both are PEM.
type Credential struct {
	Certificate string
	CSR         string
}

// NewDevice is what staff register.
type NewDevice struct {
	Name       string
	Labels     device.Labels
	Credential Credential
}

// Enrolment is what a camera registers itself with.
type Enrolment struct {
	Code string
	CSR  string
	Name string // used where the code carries none
}

// NewCode describes an enrolment code to make.
type NewCode struct {
	Labels    device.Labels
	Name      string
	ExpiresIn time.Duration // 0: the broker's default, 1 h
}

// Code is a one-time enrolment code. It is shown once.
type Code struct {
	Code      string
	ExpiresAt time.Time
}

// Registration is a registered device and what it needs in order to connect.
type Registration struct {
	Device      device.Device
	Certificate string // PEM signed for a CSR; "" where the device brought its own
	CA          string // PEM of the CA of the broker's server certificate
	MQTT        string // ssl://host:port
	Repeated    bool   // an enrolment that had been made before
}

// DeviceFilter chooses devices. Zero values choose all.
type DeviceFilter struct {
	Labels device.Labels
	Name   string // part of the name, whatever the case
	Online *bool
	Limit  int // 1 to 1000
	Cursor string
}

// PutResult says what Put did with one reply.
type PutResult int

// What Put did.
const (
	Stored    PutResult = iota + 1
	Duplicate           // its key is there, unread or in its grace
	Read                // its client read it and the grace is over
	Unsafe              // it is there, stored or a duplicate, but would not survive the death of the cache's server
)

// Take says what to take from the cache.
type Take struct {
	Mailbox device.Mailbox
	Device  device.ID
	IDs     []device.RequestID // at most 100; none: every unread reply
	Grace   time.Duration
}

// Taken is what Take found.
type Taken struct {
	Replies []device.Reply     // in order of arrival
	Read    []device.RequestID // of the ids asked for: those with a reply that was read and whose grace is over
	Again   int                // how many of Replies had been read before; a cache that cannot tell leaves it 0
	More    bool               // with ids: there are more replies than one Take returns
}
