package httpapi

import (
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"signaldevice/audit"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// Limits of what registers a device, those of iot-core.md.
const (
	maxName       = 50
	maxLabels     = 64
	maxLabel      = 63 // characters of a label's key, and of its value
	maxPEM        = 32 << 10
	maxCode       = 256
	maxCodeExpiry = 30 * 24 * time.Hour
)

type certificateBody struct {
	Fingerprint string `json:"fingerprint"`
	NotAfter    string `json:"not_after"`
	PEM         string `json:"certificate,omitzero"` // only where it was signed for a CSR just now
}

type registrationBody struct {
	ID           device.ID         `json:"id"`
	Name         string            `json:"name"`
	Labels       device.Labels     `json:"labels"`
	Certificates []certificateBody `json:"certificates"`
	Certificate  string            `json:"certificate,omitzero"`
	CA           string            `json:"ca"`
	MQTT         string            `json:"mqtt"`
	Topics       topicsBody        `json:"topics"`
}

type topicsBody struct {
	Commands string `json:"commands"`
	Events   string `json:"events"`
}

type deviceBody struct {
	ID           device.ID         `json:"id"`
	Name         string            `json:"name"`
	Description  string            `json:"description"`
	Labels       device.Labels     `json:"labels"`
	Certificates []certificateBody `json:"certificates"`
	CreatedAt    string            `json:"created_at"`
	Online       bool              `json:"online"`
	Since        *string           `json:"since"`
	LastSeen     *string           `json:"last_seen"`
}

func showDevice(d device.Device) deviceBody {
	return deviceBody{
		ID:           d.ID,
		Name:         d.Name,
		Description:  d.Description,
		Labels:       d.Labels,
		Certificates: showCertificates(d.Certificates),
		CreatedAt:    stamp(d.CreatedAt),
		Online:       d.Presence.Online,
		Since:        stampOrNull(d.Presence.Since),
		LastSeen:     stampOrNull(d.Presence.LastSeen),
	}
}

func showCertificates(list []device.Certificate) []certificateBody {
	shown := make([]certificateBody, len(list))
	for i, c := range list {
		shown[i] = certificateBody{Fingerprint: c.Fingerprint, NotAfter: stamp(c.NotAfter)}
	}
	return shown
}

func showRegistration(r dispatch.Registration) registrationBody {
	topics := device.TopicsOf(r.Device.ID)
	return registrationBody{
		ID:           r.Device.ID,
		Name:         r.Device.Name,
		Labels:       r.Device.Labels,
		Certificates: showCertificates(r.Device.Certificates),
		Certificate:  r.Certificate,
		CA:           r.CA,
		MQTT:         r.MQTT,
		Topics:       topicsBody(topics),
	}
}

// enrolDevice is called by cameras. Its one credential is the code in the body.
func (a *API) enrolDevice(w *answer, r *http.Request) error {
	if err := a.enrol.take(addressKey(r.RemoteAddr), a.cfg.Clock()); err != nil {
		return err
	}
	if err := noQuery(r); err != nil {
		return err
	}
	f, err := readFields(w, r, maxOtherBody, "code", "csr", "name")
	if err != nil {
		return err
	}
	in := dispatch.Enrolment{Code: f.needed("code", maxCode), CSR: f.needed("csr", maxPEM), Name: f.deviceName()}
	if err := f.err(); err != nil {
		return err
	}
	reg, err := a.cfg.Service.Enrol(audit.WithOrigin(r.Context(), w.origin(r, "")), in)
	if err != nil {
		return err
	}
	if reg.Repeated {
		return w.json(http.StatusOK, showRegistration(reg))
	}
	return w.json(http.StatusCreated, showRegistration(reg))
}

func (a *API) registerDevice(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	f, err := readFields(w, r, maxOtherBody, "name", "certificate", "csr", "labels")
	if err != nil {
		return err
	}
	if !f.has("name") {
		f.fault("name", "is missing")
	}
	in := dispatch.NewDevice{Name: f.deviceName(), Labels: f.labels("labels"), Credential: f.credential()}
	if err := f.err(); err != nil {
		return err
	}
	reg, err := a.cfg.Service.Register(r.Context(), who.Caller, in)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/devices/"+string(reg.Device.ID))
	return w.json(http.StatusCreated, showRegistration(reg))
}

func (a *API) listDevices(w *answer, r *http.Request, who Identity) error {
	q := parseQuery(r, "label", "name", "online", "limit", "cursor")
	filter := dispatch.DeviceFilter{Labels: q.labels("label"), Name: q.one("name", maxName), Online: q.flag("online")}
	filter.Limit, filter.Cursor = q.page()
	if err := q.err(); err != nil {
		return err
	}
	items, next, err := a.cfg.Service.Devices(r.Context(), who.Caller, filter)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, pageOf(items, next, showDevice))
}

func (a *API) getDevice(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	d, err := a.cfg.Service.Device(r.Context(), who.Caller, deviceIn(r))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, showDevice(d))
}

func (a *API) deleteDevice(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	if err := a.cfg.Service.DeleteDevice(r.Context(), who.Caller, deviceIn(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) addCertificate(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	f, err := readFields(w, r, maxOtherBody, "certificate", "csr")
	if err != nil {
		return err
	}
	credential := f.credential()
	if err := f.err(); err != nil {
		return err
	}
	c, err := a.cfg.Service.AddCertificate(r.Context(), who.Caller, deviceIn(r), credential)
	if err != nil {
		return err
	}
	body := certificateBody{Fingerprint: c.Fingerprint, NotAfter: stamp(c.NotAfter)}
	if credential.CSR != "" {
		body.PEM = c.PEM
	}
	return w.json(http.StatusCreated, body)
}

func (a *API) revokeCertificate(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	fingerprint := r.PathValue("fingerprint")
	if !isFingerprint(fingerprint) {
		return &device.Error{Kind: device.CertificateUnknown}
	}
	if err := a.cfg.Service.RevokeCertificate(r.Context(), who.Caller, deviceIn(r), fingerprint); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type codeBody struct {
	Code      string `json:"code"`
	ExpiresAt string `json:"expires_at"`
}

func (a *API) createEnrolmentCode(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	f, err := readFields(w, r, maxOtherBody, "labels", "name", "expires_in")
	if err != nil {
		return err
	}
	in := dispatch.NewCode{
		Labels:    f.labels("labels"),
		Name:      f.deviceName(),
		ExpiresIn: f.seconds("expires_in", time.Second, maxCodeExpiry),
	}
	if err := f.err(); err != nil {
		return err
	}
	code, err := a.cfg.Service.CreateEnrolmentCode(r.Context(), who.Caller, in)
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, codeBody{Code: code.Code, ExpiresAt: stamp(code.ExpiresAt)})
}

// deviceIn returns the device in the path, as it came: whether there is such a device is not this edge's to say.
func deviceIn(r *http.Request) device.ID { return device.ID(r.PathValue("id")) }

// isFingerprint tells whether a certificate can have this one: 40 lower-case hex digits.
func isFingerprint(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// deviceName reads the field name: 1 to 50 characters of [A-Za-z0-9_-], as a device id has.
func (f *fields) deviceName() string {
	s := f.text("name", maxName)
	if s != "" && device.ID(s).Validate() != nil {
		f.fault("name", "may hold only letters, digits, '-' and '_'")
	}
	return s
}

// credential reads the fields certificate and csr, of which exactly one must be there.
func (f *fields) credential() dispatch.Credential {
	if f.has("certificate") == f.has("csr") {
		f.fault("certificate", "either this or csr must be there, and not both")
	}
	return dispatch.Credential{Certificate: f.text("certificate", maxPEM), CSR: f.text("csr", maxPEM)}
}

// labels reads an object of text.
func (f *fields) labels(name string) device.Labels {
	var labels device.Labels
	if !f.object(name, &labels) {
		return nil
	}
	if len(labels) > maxLabels {
		f.fault(name, "may have at most %d labels", maxLabels)
	}
	for k, v := range labels {
		if k == "" || !labelText(k) || !labelText(v) {
			f.fault(name, "keys have 1 to %d characters, values at most %d, and no control characters", maxLabel, maxLabel)
			break
		}
	}
	return labels
}

func labelText(s string) bool {
	return utf8.RuneCountInString(s) <= maxLabel && !strings.ContainsFunc(s, unicode.IsControl)
}
