package device

import (
	"encoding/json"
	"time"
)

// ReplyKind tells how a reader may show a command's result.
type ReplyKind string

// The kinds of result.
const (
	ReplyText  ReplyKind = "text"
	ReplyJSON  ReplyKind = "json"
	ReplyImage ReplyKind = "image"
)

// Command is a type of command, as the catalogue declares it. The set of commands changes without code.
type Command struct {
	Name          string
	Title         string
	Description   string
	Group         string
	Permission    string // what a role must grant to send it
	Danger        bool   // a person should be asked twice
	Hold          bool   // wait for an offline device until DeliverWithin, instead of refusing at once
	DeliverWithin time.Duration
	ReplyWithin   time.Duration
	Reply         ReplyKind
	Args          json.RawMessage // JSON Schema 2020-12 of the arguments, its fields in the author's order
}

// Payload is a command made ready for the broker: one of its two forms.
type Payload struct {
	JSON json.RawMessage // the arguments, a compact JSON object; nil where Text is set
	Text []byte          // the line for a device that speaks text, with Placeholder where the request id goes
}

// Permissions besides those that commands name.
const (
	PermRegister     = "devices.register"
	PermDelete       = "devices.delete"
	PermCertificates = "certificates.manage"
	PermEnrolment    = "enrolment.create"
	PermReadAll      = "requests.read_all"
)
