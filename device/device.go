// Package device holds the words of the domain: devices, commands, requests and their states, replies, topics and the
// kinds of error that cross every layer.
//
// It uses the standard library only, does no input or output and keeps no state. Every type is a plain value; a value
// that is not being changed may be shared between goroutines.
package device

import (
	"crypto/sha256"
	"strings"
	"time"
)

// MaxPayload is the largest MQTT payload in bytes, in either direction (iot-core.md, "Limits there": 256 KB).
const MaxPayload = 262_144

// ID names a device. It is one MQTT topic level and one NATS subject token: 1 to 50 characters of [A-Za-z0-9_-].
type ID string

// Validate reports an Invalid error when the id is empty, longer than 50 bytes or holds another character.
func (id ID) Validate() error {
	if len(id) == 0 || len(id) > 50 {
		return Errorf(Invalid, "device id must have 1 to 50 characters")
	}
	for _, c := range []byte(id) {
		if !idChar(c) {
			return Errorf(Invalid, "device id may hold only letters, digits, '-' and '_'")
		}
	}
	return nil
}

func idChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// Labels are key-value pairs on a device; roles use them to say which devices a client may touch.
type Labels map[string]string

// Match reports whether every pair of the condition is among the labels. An empty condition matches every device.
func (l Labels) Match(condition Labels) bool {
	for k, v := range condition {
		if got, ok := l[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Certificate is one certificate that a device is known by.
type Certificate struct {
	Fingerprint string    // 40 lower-case hex digits: SHA-1 of the DER, an identifier only (iot-core.md, "Certificates")
	PEM         string    // the whole certificate, one PEM block
	NotAfter    time.Time // its expiry
}

// Presence tells whether a device can receive a command now.
type Presence struct {
	Online   bool      // a connection of the device is subscribed to its commands
	Since    time.Time // when Online last changed; zero: never connected
	LastSeen time.Time // the last packet of the device, or of its last connection; zero: never connected
}

// Device is a camera registered in the broker. It is known by its certificates alone.
type Device struct {
	ID           ID
	RegistryID   string
	Name         string // unique in its registry; 1 to 50 characters of [A-Za-z0-9_-]
	Description  string // at most 256 characters
	Labels       Labels
	Certificates []Certificate
	CreatedAt    time.Time
	Presence     Presence
}

// ClientID names the authenticated caller: a token's client, or issuer and subject of a login. It always comes from the
// credential (I3). All tabs and scripts of one client share one mailbox.
type ClientID string

// Mailbox is the pseudonym of a client that cameras and the broker's queue see: 128 bits of SHA-256 over its identity.
type Mailbox [16]byte

// MailboxOf returns the mailbox of a client. It is the same on every instance and after every restart.
func MailboxOf(c ClientID) Mailbox {
	sum := sha256.Sum256([]byte("signal-device mailbox\x00" + string(c)))
	return Mailbox(sum[:16])
}

// Topics of one device (iot-core.md, "MQTT").
type Topics struct {
	Commands string // back end to device
	Events   string // device to back end
}

// TopicsOf returns the topics of the device in their full form.
func TopicsOf(id ID) Topics {
	base := "$devices/" + string(id)
	return Topics{Commands: base + "/commands", Events: base + "/events"}
}

// MyTopics are the same topics as a device may name them without knowing its id (iot-core.md, "MQTT": `$me/device/…`).
var MyTopics = Topics{Commands: "$me/device/commands", Events: "$me/device/events"}

// Under reports whether the topic is base itself or a subtopic below it, and returns the part below ("" for base).
func Under(topic, base string) (sub string, ok bool) {
	if topic == base {
		return "", true
	}
	if rest, ok := strings.CutPrefix(topic, base+"/"); ok {
		return rest, true
	}
	return "", false
}
