package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"signaldevice/device"
)

// Subjects of the stream. barrierSubject carries empty messages, whose sequence is all that matters.
const (
	devicePrefix   = "d."
	codePrefix     = "e."
	barrierSubject = "devices.barrier"
)

func deviceSubject(id device.ID) string { return devicePrefix + string(id) }
func codeSubject(hash string) string    { return codePrefix + hash }

// Snapshot is a device as it stood after one write. It never changes and is shared: a reader must not change its maps
// and slices. Its Presence is not set.
type Snapshot struct {
	device.Device
	addedAt  []time.Time // of each certificate
	hashes   [][sha256.Size]byte
	code     string // the hash of the enrolment code that it spent; "" none
	enrolled string // the fingerprint of the certificate it was given for the code
	size     int    // bytes of its record

	generation uint64 // of the table's reading that it was seen in
}

// CertificateAddedAt returns when the certificate at the index of Certificates was registered.
func (s *Snapshot) CertificateAddedAt(i int) time.Time { return s.addedAt[i] }

// With returns the device with its presence, to give out.
func (s *Snapshot) With(p device.Presence) device.Device {
	d := s.Device
	d.Presence = p
	return d
}

func (s *Snapshot) certificate(fingerprint string) int {
	return slices.IndexFunc(s.Certificates, func(c device.Certificate) bool { return c.Fingerprint == fingerprint })
}

// deviceRecord is a device in the stream. A tombstone has only Deleted and Code.
type deviceRecord struct {
	Deleted      bool                `json:"deleted,omitempty"`
	RegistryID   string              `json:"registry_id,omitempty"`
	Name         string              `json:"name,omitempty"`
	Description  string              `json:"description,omitempty"`
	Labels       device.Labels       `json:"labels,omitempty"`
	Certificates []certificateRecord `json:"certificates,omitempty"`
	CreatedAt    time.Time           `json:"created_at,omitzero"`
	Code         string              `json:"code,omitempty"`
	Enrolled     string              `json:"enrolled,omitempty"`
}

type certificateRecord struct {
	Fingerprint string    `json:"fingerprint"`
	PEM         string    `json:"pem"`
	NotAfter    time.Time `json:"not_after"`
	AddedAt     time.Time `json:"added_at"`
}

// codeRecord is an enrolment code in the stream. Its subject has the hash.
type codeRecord struct {
	Name      string        `json:"name,omitempty"`
	Labels    device.Labels `json:"labels,omitempty"`
	ExpiresAt time.Time     `json:"expires_at"`
}

// record returns the device as the stream has it, free to be changed and written.
func (s *Snapshot) record() deviceRecord {
	rec := deviceRecord{
		RegistryID: s.RegistryID, Name: s.Name, Description: s.Description, Labels: maps.Clone(s.Labels),
		CreatedAt: s.CreatedAt, Code: s.code, Enrolled: s.enrolled,
	}
	for i, c := range s.Certificates {
		rec.Certificates = append(rec.Certificates, certificateRecord{c.Fingerprint, c.PEM, c.NotAfter, s.addedAt[i]})
	}
	return rec
}

// snapshot reads a record that is not a tombstone.
func (rec deviceRecord) snapshot(id device.ID, size int) (*Snapshot, error) {
	s := &Snapshot{
		Device: device.Device{
			ID: id, RegistryID: rec.RegistryID, Name: rec.Name, Description: rec.Description,
			Labels: rec.Labels, CreatedAt: rec.CreatedAt,
		},
		code: rec.Code, enrolled: rec.Enrolled, size: size,
	}
	for _, c := range rec.Certificates {
		der, err := derOf(c.PEM)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", c.Fingerprint, err)
		}
		s.Certificates = append(s.Certificates, device.Certificate{Fingerprint: c.Fingerprint, PEM: c.PEM, NotAfter: c.NotAfter})
		s.addedAt = append(s.addedAt, c.AddedAt)
		s.hashes = append(s.hashes, sha256.Sum256(der))
	}
	return s, nil
}

// add puts a checked certificate into the record.
func (rec *deviceRecord) add(c device.Certificate, now time.Time) {
	rec.Certificates = append(rec.Certificates, certificateRecord{c.Fingerprint, c.PEM, c.NotAfter, now.UTC()})
}

func derOf(text string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return block.Bytes, nil
}

func marshal(record any) []byte {
	data, err := json.Marshal(record)
	if err != nil {
		panic(err) // these records hold strings and times only
	}
	return data
}

// Random names. Both alphabets are lower-case letters and digits, five bits a character.
var (
	idAlphabet   = base32.HexEncoding.WithPadding(base32.NoPadding)
	codeAlphabet = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// newID mints a device id in IoT Core's form: 20 characters, 85 of their bits random.
func newID() device.ID { return device.ID("are" + random(idAlphabet, 11)[:17]) }

// newCode mints an enrolment code of 160 random bits. The prefix lets scanners for secrets find one in a log.
func newCode() string { return "sde1_" + random(codeAlphabet, 20) }

func random(alphabet *base32.Encoding, bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return strings.ToLower(alphabet.EncodeToString(b))
}

// hashCode is how a code is known in the stream. The code is random and long: a plain hash cannot be searched.
func hashCode(code string) string {
	sum := sha256.Sum256([]byte(code))
	return hex.EncodeToString(sum[:])
}
