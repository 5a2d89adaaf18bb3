package device

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A request id is a signed, self-describing token: RequestIDPrefix, then 51 bytes in unpadded URL-safe base64.
//
//	byte  0       key id
//	bytes 1–16    UUIDv7 of the request (RFC 9562), its time by the broker's clock
//	bytes 17–32   mailbox of the client
//	bytes 33–38   reply_by, Unix milliseconds, big endian
//	bytes 39–50   HMAC-SHA-256 over the prefix, bytes 0–38 and the device id, cut to 96 bits
//
// Any reply that carries it tells whose it is with no shared state, and a device cannot forge one of another device.
const (
	RequestIDPrefix = "sdr1_"
	RequestIDLen    = len(RequestIDPrefix) + 68 // characters

	claimsLen = 39
	macLen    = 12
	tokenLen  = claimsLen + macLen
)

// ErrNotRequestID is the one answer to a token that is malformed, forged, of another device or of an unknown key. It
// does not tell which, so that nobody can search.
var ErrNotRequestID = errors.New("not a request id of this device")

var tokenEncoding = base64.RawURLEncoding.Strict()

// RequestID is the token that a command carries to its device and that the device's replies echo.
type RequestID string

// UUID tells requests apart inside the broker; it sorts by time (RFC 9562, version 7).
type UUID [16]byte

// String returns 32 lower-case hex digits, which sort as the UUIDs do.
func (u UUID) String() string { return fmt.Sprintf("%x", u[:]) }

// Time returns the moment of minting, in milliseconds.
func (u UUID) Time() time.Time {
	var b [8]byte
	copy(b[2:], u[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:])))
}

// Claims is what a request id says about its request.
type Claims struct {
	KeyID   byte
	UUID    UUID
	Mailbox Mailbox
	ReplyBy time.Time // whole milliseconds
}

// Claims reads the token without verifying it. The broker must Verify instead; a client may compare the mailbox with
// its own, which a forger gains nothing by guessing. ErrNotRequestID: the token is malformed.
func (id RequestID) Claims() (Claims, error) {
	b, err := id.decode()
	if err != nil {
		return Claims{}, err
	}
	return readClaims(b), nil
}

func (id RequestID) decode() ([]byte, error) {
	if len(id) != RequestIDLen || id[:len(RequestIDPrefix)] != RequestIDPrefix {
		return nil, ErrNotRequestID
	}
	b, err := tokenEncoding.DecodeString(string(id[len(RequestIDPrefix):]))
	if err != nil || len(b) != tokenLen {
		return nil, ErrNotRequestID
	}
	return b, nil
}

func readClaims(b []byte) Claims {
	c := Claims{KeyID: b[0], UUID: UUID(b[1:17]), Mailbox: Mailbox(b[17:33])}
	var ms [8]byte
	copy(ms[2:], b[33:39])
	c.ReplyBy = time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
	return c
}

// FindRequestID returns the first run of bytes in data that has the shape of a request id. It says nothing about the
// signature. It looks at all of data: cut the data first where only its beginning counts.
func FindRequestID(data []byte) (RequestID, bool) {
	for {
		i := bytes.Index(data, []byte(RequestIDPrefix))
		if i < 0 || len(data)-i < RequestIDLen {
			return "", false
		}
		candidate := data[i : i+RequestIDLen]
		if shaped(candidate[len(RequestIDPrefix):]) {
			return RequestID(candidate), true
		}
		data = data[i+1:]
	}
}

func shaped(b []byte) bool {
	for _, c := range b {
		if !idChar(c) {
			return false
		}
	}
	return true
}

// Key signs request ids. The secret has at least 32 bytes; ids are unique in a KeyRing.
type Key struct {
	ID     byte
	Secret []byte
}

// NewKey returns a key with a fresh random secret of 32 bytes.
func NewKey(id byte) Key {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails: crypto/rand ends the program instead
	return Key{ID: id, Secret: secret}
}

// KeyRing signs with its last key and accepts all of them. A key is taken out only after every queue entry that it
// signed has aged out. A KeyRing is immutable and safe for concurrent use.
type KeyRing struct{ keys []Key }

// NewKeyRing returns a ring of the keys, oldest first.
func NewKeyRing(keys ...Key) (*KeyRing, error) {
	if len(keys) == 0 {
		return nil, errors.New("request id keys: at least one is needed")
	}
	seen := map[byte]bool{}
	for _, k := range keys {
		if len(k.Secret) < 32 {
			return nil, fmt.Errorf("request id key %d: the secret is shorter than 32 bytes", k.ID)
		}
		if seen[k.ID] {
			return nil, fmt.Errorf("request id key %d is there twice", k.ID)
		}
		seen[k.ID] = true
	}
	ring := &KeyRing{keys: make([]Key, len(keys))}
	for i, k := range keys {
		ring.keys[i] = Key{k.ID, bytes.Clone(k.Secret)}
	}
	return ring, nil
}

// Mint returns a new request id for a command of the mailbox's client to the device, at the given time of the broker.
func (r *KeyRing) Mint(now time.Time, m Mailbox, dev ID, replyBy time.Time) RequestID {
	key := r.keys[len(r.keys)-1]
	b := make([]byte, claimsLen, tokenLen)
	b[0] = key.ID
	uuid := newUUIDv7(now)
	copy(b[1:17], uuid[:])
	copy(b[17:33], m[:])
	putMillis(b[33:39], replyBy)
	b = append(b, sign(key, b, dev)...)
	return RequestID(RequestIDPrefix + tokenEncoding.EncodeToString(b))
}

// Verify returns the claims of a token that this ring signed for the device, else ErrNotRequestID. It takes the same
// time for every wrong signature.
func (r *KeyRing) Verify(id RequestID, dev ID) (Claims, error) {
	b, err := id.decode()
	if err != nil {
		return Claims{}, err
	}
	for _, key := range r.keys {
		if key.ID == b[0] && hmac.Equal(sign(key, b[:claimsLen], dev), b[claimsLen:]) {
			return readClaims(b), nil
		}
	}
	return Claims{}, ErrNotRequestID
}

func sign(key Key, claims []byte, dev ID) []byte {
	mac := hmac.New(sha256.New, key.Secret)
	mac.Write([]byte(RequestIDPrefix))
	mac.Write(claims)
	mac.Write([]byte(dev))
	return mac.Sum(nil)[:macLen]
}

// newUUIDv7 lays 74 random bits after the time (RFC 9562, section 5.7).
func newUUIDv7(now time.Time) UUID {
	var u UUID
	rand.Read(u[6:])
	putMillis(u[:6], now)
	u[6] = 0x70 | u[6]&0x0f
	u[8] = 0x80 | u[8]&0x3f
	return u
}

func putMillis(dst []byte, t time.Time) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(max(0, t.UnixMilli())))
	copy(dst, b[2:])
}
