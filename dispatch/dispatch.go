// Package dispatch sends commands to devices and brings each reply to the client that waits for it.
//
// It promises that a reply which is in its device's output queue reaches the client whose request it answers, and no
// other (I3); that a reply leaves the queue only once it is safe elsewhere or was read (I2); that "no reply" is said only
// when the broker was asked (I8); and that no dependency which fails makes a call hang (I7).
//
// A poll looks into the cache, moves the device's queue into the cache, looks again, and only then asks for states.
// Whatever fails on that way leaves the reply where it is: in the queue, in the cache, or in both. So a reply may be
// given twice after a fault, always with the same body; it is never lost.
//
// The package keeps nothing that must survive: only what it knows of its dependencies' health, and who waits. It holds
// no network code; it asks for what it needs through the ports in ports.go, which package app chooses.
//
// A Dispatcher is safe for concurrent use, and any number of them may share one broker and one cache (I6).
package dispatch

import (
	"context"
	"encoding/json"
	"time"

	"signaldevice/device"
)

// Reply is a reply as its reader gets it.
type Reply struct {
	device.Reply
	Answer device.Answer
}

// RequestState is the state of one request that a reader asked for.
type RequestState struct {
	ID    device.RequestID
	State device.State
}

// Source tells where the replies of a poll came from.
type Source string

// The two sources. A poll that found replies in both says SourceBroker.
const (
	SourceCache  Source = "cache"
	SourceBroker Source = "broker"
)

// Replies is the answer to a poll.
type Replies struct {
	Replies  []Reply
	Answered bool           // at least one final reply is among them
	Requests []RequestState // one for each id asked for, in that order; without ids, one for each reply's request
	Source   Source
}

// SendInput is a command as a client sends it.
type SendInput struct {
	Device         device.ID
	Command        string
	Args           json.RawMessage
	IdempotencyKey string
	Wait           time.Duration // 0: answer as soon as it is delivered, held or sent; else wait for the final reply, at most 60 s
}

// SendResult is an accepted command, with its replies where the caller waited for them.
type SendResult struct {
	Request device.Request
	Replies []Reply // set when the final reply came within Wait; they count as read
}

// RepliesInput is a poll.
type RepliesInput struct {
	Device device.ID
	IDs    []device.RequestID // at most 100
	Wait   time.Duration      // at most 60 s
}

// CommandView is a command with what the caller may do with it.
type CommandView struct {
	device.Command
	Allowed bool
}

// Service is what the edges call. *Dispatcher is the one implementation; it is an interface only so that the HTTP edge
// can be tested alone.
type Service interface {
	Commands(c Caller) []CommandView
	CommandsOf(ctx context.Context, c Caller, id device.ID) ([]CommandView, error)
	Send(ctx context.Context, c Caller, in SendInput) (SendResult, error)
	Replies(ctx context.Context, c Caller, in RepliesInput) (Replies, error)
	Request(ctx context.Context, c Caller, id device.RequestID) (device.Request, error)
	Requests(ctx context.Context, c Caller, f RequestFilter) (items []device.Request, next string, err error)
	Cancel(ctx context.Context, c Caller, id device.RequestID) (device.Request, error)
	Subscribe(c Caller, after string) (*Subscription, error)

	Register(ctx context.Context, c Caller, d NewDevice) (Registration, error)
	Enrol(ctx context.Context, e Enrolment) (Registration, error)
	CreateEnrolmentCode(ctx context.Context, c Caller, n NewCode) (Code, error)
	Device(ctx context.Context, c Caller, id device.ID) (device.Device, error)
	Devices(ctx context.Context, c Caller, f DeviceFilter) (items []device.Device, next string, err error)
	DeleteDevice(ctx context.Context, c Caller, id device.ID) error
	AddCertificate(ctx context.Context, c Caller, id device.ID, cred Credential) (device.Certificate, error)
	RevokeCertificate(ctx context.Context, c Caller, id device.ID, fingerprint string) error

	// Degraded names the dependencies ("broker", "cache") that do not answer now, or did not at some time since began, and
	// since when. Empty: all is well.
	Degraded(began time.Time) []Outage
}

// Outage is a dependency that does not answer.
type Outage struct {
	Dependency string // "broker" or "cache"
	Since      time.Time
	Reason     string // a sentence, or ""
}
