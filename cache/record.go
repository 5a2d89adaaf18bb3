package cache

import (
	"encoding/binary"
	"errors"
	"time"

	"signaldevice/device"
)

// A record in Redis is a head, then the rest:
//
//	byte 0      recordVersion
//	byte 1      flags
//	bytes 2–5   bytes of the body, big endian
//	byte 6      bytes of the request id
//	then        the request id
//	then        seq, seconds and nanoseconds of ReceivedAt as varints; command and position, each after its length as
//	            uvarint; the body
//
// The mailbox and the device are not in it: only who names them finds it (I3).
const (
	recordVersion = 1
	flagFinal     = 1
	flagLate      = 2
	fixedHead     = 7
	maxHead       = fixedHead + maxRequestID
)

var errRecord = errors.New("a record in the cache cannot be read")

func encodeRecord(r device.Reply) []byte {
	b := make([]byte, 0, maxHead+3*binary.MaxVarintLen64+len(r.Command)+len(r.Position)+len(r.Body))
	var flags byte
	if r.Final {
		flags |= flagFinal
	}
	if r.Late {
		flags |= flagLate
	}
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
	if len(b) < fixedHead || b[0] != recordVersion || len(b) < fixedHead+int(b[6]) {
		return "", 0, errRecord
	}
	return device.RequestID(b[fixedHead : fixedHead+int(b[6])]), int(binary.BigEndian.Uint32(b[2:])), nil
}

// decodeRecord reads a record. Body and position are parts of b.
func decodeRecord(b []byte) (device.Reply, error) {
	id, length, err := decodeHead(b)
	if err != nil {
		return device.Reply{}, err
	}
	d := decoder{rest: b[fixedHead+len(id):]}
	r := device.Reply{
		Request:    id,
		Final:      b[1]&flagFinal != 0,
		Late:       b[1]&flagLate != 0,
		Seq:        int(d.varint()),
		ReceivedAt: time.Unix(d.varint(), d.varint()).UTC(),
		Command:    string(d.bytes()),
		Position:   d.bytes(),
	}
	if r.Body = d.rest; d.failed || len(r.Body) != length {
		return device.Reply{}, errRecord
	}
	return r, nil
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
