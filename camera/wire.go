package camera

import (
	"encoding/json"
	"time"
)

// Limits of the contract, as a camera knows them.
const (
	maxPayload    = 262_144 // bytes of one MQTT message, in either direction
	maxHistory    = 1_000   // requests remembered, to tell a second copy of a command
	maxRunning    = 64      // commands executed at the same time
	maxUnsent     = 1_000   // replies waiting for their PUBACK
	qosAtLeastOne = 1
)

// The statuses of a reply.
const (
	statusOK       = "ok"
	statusError    = "error"
	statusProgress = "progress"
)

// The codes of an error reply.
const (
	codeUnknownCommand   = "unknown_command"
	codeInvalidArguments = "invalid_arguments"
	codeExpired          = "expired"
	codeBusy             = "busy"
	codeCarMoving        = "car_moving"
)

// command is what arrives on the commands topic. Fields that are not known are ignored: newer brokers may add some.
type command struct {
	RequestID string          `json:"request_id"` // opaque, echoed in every reply
	Command   string          `json:"command"`
	Args      json.RawMessage `json:"args"`
	ExpiresAt *time.Time      `json:"expires_at"`
	ExpiresIn *float64        `json:"expires_in"` // seconds left when the broker wrote the command
}

// deadline returns the moment after which the command must not run, by the camera's clock. The time left counts from
// the receipt, because a camera's clock may be wrong; expires_at is used only where there is nothing better.
func (c command) deadline(received time.Time) (time.Time, bool) {
	switch {
	case c.ExpiresIn != nil:
		// Bounded, since a float64 of seconds may not fit a Duration.
		left := min(max(*c.ExpiresIn, 0), (365 * 24 * time.Hour).Seconds())
		return received.Add(time.Duration(left * float64(time.Second))), true
	case c.ExpiresAt != nil:
		return *c.ExpiresAt, true
	default:
		return time.Time{}, false
	}
}

// reply is what the camera publishes on the events topic. A request may have several, told apart by Seq; the last one
// is Final.
type reply struct {
	RequestID string      `json:"request_id"`
	Status    string      `json:"status"`
	Result    any         `json:"result,omitempty"`
	Error     *replyError `json:"error,omitempty"`
	Seq       int         `json:"seq"`
	Final     bool        `json:"final"`
}

// replyError is the camera's own account of what went wrong.
type replyError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func ok(result any) reply { return reply{Status: statusOK, Result: result, Final: true} }

func progress(result any) reply { return reply{Status: statusProgress, Result: result} }

func failed(code, message string) reply {
	return reply{Status: statusError, Error: &replyError{Code: code, Message: message}, Final: true}
}
