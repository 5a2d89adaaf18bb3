package cache

import (
	"encoding/binary"
	"errors"
	"time"

	"signaldevice/device"
)

// A record in Redis is a head, then the rest:
//
//	bytes 0–7    its expiry in µs by Redis's clock, big endian: the script that stores it puts it there
//	bytes 8–23   owner
//	bytes 24–31  the digest of its request, without what is in its name
//	byte 32      recordVersion
//	byte 33      flags
//	bytes 34–37  bytes of the body, big endian
//	byte 38      bytes of the request id
//	then         the request id
//	then         seq, seconds and nanoseconds of ReceivedAt as varints; command and position, each after its length as
//	             uvarint; the body
//
// Mailbox and device are in it as owner only: only who names them finds it (I3). A body of 1,024 bytes leaves the head 250
// at no cost, since Redis's allocator has no size between 1,024 and 1,280.
const (
	recordVersion = 2
	flagFinal     = 1
	flagLate      = 2
	versionAt     = 32
	fixedHead     = 39
	maxHead       = fixedHead + maxRequestID
)

var errRecord = errors.New("a record in the cache cannot be read")

// encodeRecord returns a record without its expiry.
func encodeRecord(o owner, d digest, r device.Reply) []byte {
	b := make([]byte, 0, maxHead+3*binary.MaxVarintLen64+len(r.Command)+len(r.Position)+len(r.Body))
	var flags byte
	if r.Final {
		flags |= flagFinal
	}
	if r.Late {
		flags |= flagLate
	}
	b = append(b, o[:]...)
	b = append(b, d[8:]...)
	b = append(b, recordVersion, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Body)))
	b = append(b, byte(len(r.Request)))
	b = append(b, r.Request...)
	b = binary.AppendVarint(b, int64(r.Seq))
	b = binary.AppendVarint(b, r.ReceivedAt.Unix())
	b = binary.AppendVarint(b, int64(r.ReceivedAt.Nanosecond()))
	b = appendBytes(b, []byte(r.Command))
	b = appendBytes(b, r.Position)
	return append(b, r.Body...)
}

// decodeHead reads the request id and the length of the body from the beginning of a record.
func decodeHead(b []byte) (id device.RequestID, body int, err error) {
	if len(b) < fixedHead || b[versionAt] != recordVersion || len(b) < fixedHead+int(b[fixedHead-1]) {
		return "", 0, errRecord
	}
	return device.RequestID(b[fixedHead : fixedHead+int(b[fixedHead-1])]), int(binary.BigEndian.Uint32(b[versionAt+2:])), nil
}

// decodeRecord reads a record and its expiry in µs. Body and position are parts of b.
func decodeRecord(b []byte) (expiry int64, r device.Reply, err error) {
	id, length, err := decodeHead(b)
	if err != nil {
		return 0, device.Reply{}, err
	}
	d := decoder{rest: b[fixedHead+len(id):]}
	r = device.Reply{
		Request:    id,
		Final:      b[versionAt+1]&flagFinal != 0,
		Late:       b[versionAt+1]&flagLate != 0,
		Seq:        int(d.varint()),
		ReceivedAt: time.Unix(d.varint(), d.varint()).UTC(),
		Command:    string(d.bytes()),
		Position:   d.bytes(),
	}
	if r.Body = d.rest; d.failed || len(r.Body) != length {
		return 0, device.Reply{}, errRecord
	}
	return int64(binary.BigEndian.Uint64(b)), r, nil
}

func appendBytes(b, field []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(field))), field...)
}

// decoder reads fields one after the other and remembers whether one failed.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	d.skip(n)
	return v
}

func (d *decoder) bytes() []byte {
	length, n := binary.Uvarint(d.rest)
	d.skip(n)
	if d.failed || length > uint64(len(d.rest)) {
		d.failed = true
		return nil
	}
	field := d.rest[:length:length]
	d.rest = d.rest[length:]
	return field
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.failed = true
		return
	}
	d.rest = d.rest[n:]
}
