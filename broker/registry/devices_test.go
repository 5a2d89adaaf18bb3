package registry

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
)

func portOf(t testing.TB, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newCerts(t testing.TB, n int) []string {
	t.Helper()
	certs := make([]string, n)
	for i := range certs {
		certs[i] = newCert(t)
	}
	return certs
}

func labels(n int) device.Labels {
	l := device.Labels{}
	for i := range n {
		l[fmt.Sprintf("k%d", i)] = "v"
	}
	return l
}

// I10: each limit from both sides; what is refused changes nothing.
func TestCreate_Limits(t *testing.T) {
	r := alone(t)
	cert := newCert(t)
	tests := map[string]struct {
		edit  func(*NewDevice)
		kind  device.Kind
		place string
	}{
		"as built":                   {func(d *NewDevice) {}, device.OK, ""},
		"registry named":             {func(d *NewDevice) { d.RegistryID = DefaultID }, device.OK, ""},
		"another registry":           {func(d *NewDevice) { d.RegistryID = "other" }, device.Invalid, "registry_id"},
		"no name":                    {func(d *NewDevice) { d.Name = "" }, device.OK, ""},
		"name of 50":                 {func(d *NewDevice) { d.Name = strings.Repeat("n", 50) }, device.OK, ""},
		"name of 51":                 {func(d *NewDevice) { d.Name = strings.Repeat("n", 51) }, device.Invalid, "name"},
		"name with a dot":            {func(d *NewDevice) { d.Name = "a.b" }, device.Invalid, "name"},
		"name with a line end":       {func(d *NewDevice) { d.Name = "a\n" }, device.Invalid, "name"},
		"id given":                   {func(d *NewDevice) { d.ID = "are_given-1" }, device.OK, ""},
		"id of 50":                   {func(d *NewDevice) { d.ID = device.ID(strings.Repeat("i", 50)) }, device.OK, ""},
		"id of 51":                   {func(d *NewDevice) { d.ID = device.ID(strings.Repeat("i", 51)) }, device.Invalid, "id"},
		"id with a wildcard":         {func(d *NewDevice) { d.ID = "a.*" }, device.Invalid, "id"},
		"description of 256":         {func(d *NewDevice) { d.Description = strings.Repeat("ы", 256) }, device.OK, ""},
		"description of 257":         {func(d *NewDevice) { d.Description = strings.Repeat("ы", 257) }, device.Invalid, "description"},
		"description not UTF-8":      {func(d *NewDevice) { d.Description = "\xff" }, device.Invalid, "description"},
		"64 labels":                  {func(d *NewDevice) { d.Labels = labels(64) }, device.OK, ""},
		"65 labels":                  {func(d *NewDevice) { d.Labels = labels(65) }, device.Invalid, "labels"},
		"label key of 63":            {func(d *NewDevice) { d.Labels = device.Labels{strings.Repeat("k", 63): ""} }, device.OK, ""},
		"label key of 64":            {func(d *NewDevice) { d.Labels = device.Labels{strings.Repeat("k", 64): ""} }, device.Invalid, "labels"},
		"label key in capitals":      {func(d *NewDevice) { d.Labels = device.Labels{"Depot": ""} }, device.Invalid, "labels"},
		"empty label key":            {func(d *NewDevice) { d.Labels = device.Labels{"": ""} }, device.Invalid, "labels"},
		"label value of 63":          {func(d *NewDevice) { d.Labels = device.Labels{"k": strings.Repeat("Ж", 63)} }, device.OK, ""},
		"label value of 64":          {func(d *NewDevice) { d.Labels = device.Labels{"k": strings.Repeat("Ж", 64)} }, device.Invalid, "labels.k"},
		"label value with a control": {func(d *NewDevice) { d.Labels = device.Labels{"k": "a\x1b[0m"} }, device.Invalid, "labels.k"},
		"no certificate":             {func(d *NewDevice) { d.Certificates = nil }, device.OK, ""},
		"10 certificates":            {func(d *NewDevice) { d.Certificates = newCerts(t, 10) }, device.OK, ""},
		"11 certificates":            {func(d *NewDevice) { d.Certificates = newCerts(t, 11) }, device.Invalid, "certificates"},
		"9 certificates and a CSR": {func(d *NewDevice) {
			d.Certificates = newCerts(t, 9)
			d.CSR = newCSR(t, newKey(t))
		}, device.OK, ""},
		"10 certificates and a CSR": {func(d *NewDevice) {
			d.Certificates = newCerts(t, 10)
			d.CSR = newCSR(t, newKey(t))
		}, device.Invalid, "certificates"},
		"the second certificate bad": {func(d *NewDevice) { d.Certificates = []string{cert, "x"} }, device.InvalidCertificate, "certificates[1]"},
		"one certificate twice":      {func(d *NewDevice) { d.Certificates = []string{cert, cert} }, device.CertificateInUse, ""},
		"an expired certificate":     {func(d *NewDevice) { d.Certificates = []string{certUntil(t, time.Now().Add(-time.Minute))} }, device.InvalidCertificate, "certificates[0]"},
		"a bad CSR":                  {func(d *NewDevice) { d.CSR = "x" }, device.InvalidCSR, "csr"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := NewDevice{Name: "cam", Labels: device.Labels{"depot": "north"}, Certificates: []string{cert}}
			tt.edit(&d)
			got, err := r.Create(ctx(t), d)
			wantKind(t, "Create", err, tt.kind)
			if err == nil {
				if err := r.Delete(ctx(t), got.Device.ID); err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *device.Error
			if tt.place != "" && (!errors.As(err, &e) || len(e.Faults) != 1 || e.Faults[0].Location != tt.place) {
				t.Errorf("faults %+v, want one at %q", e.Faults, tt.place)
			}
			if r.Count() != 0 {
				t.Errorf("a refused device is there")
			}
		})
	}
}

func TestCreate_NamesEveryFault(t *testing.T) {
	_, err := alone(t).Create(ctx(t), NewDevice{ID: "*", Name: ".", Description: "\x00", Labels: device.Labels{"A": ""}})
	var e *device.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	var places []string
	for _, f := range e.Faults {
		places = append(places, f.Location)
	}
	if want := []string{"description", "id", "labels", "name"}; !slices.Equal(places, want) {
		t.Errorf("faults at %v, want %v", places, want)
	}
}

func TestCreate_IsUnique(t *testing.T) {
	r := alone(t)
	cert, second := newCert(t), newCert(t)
	first := create(t, r, NewDevice{Name: "one", Certificates: []string{cert, second}})
	tests := map[string]struct {
		d    NewDevice
		kind device.Kind
	}{
		"the same name":              {NewDevice{Name: "one"}, device.DeviceExists},
		"the same id":                {NewDevice{ID: first.ID, Name: "two"}, device.DeviceExists},
		"the same certificate":       {NewDevice{Name: "two", Certificates: []string{cert}}, device.CertificateInUse},
		"the same, among others":     {NewDevice{Name: "two", Certificates: []string{newCert(t), second}}, device.CertificateInUse},
		"the same name, in capitals": {NewDevice{Name: "ONE"}, device.OK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := r.Create(ctx(t), tt.d)
			wantKind(t, "Create", err, tt.kind)
		})
	}
	if err := r.RemoveCertificate(ctx(t), first.ID, first.Certificates[1].Fingerprint); err != nil {
		t.Fatal(err)
	}
	create(t, r, NewDevice{Name: "two", Certificates: []string{second}})
	if err := r.Delete(ctx(t), first.ID); err != nil {
		t.Fatal(err)
	}
	create(t, r, NewDevice{ID: first.ID, Name: "one", Certificates: []string{cert}})
}

func TestCreate_MintsIDs(t *testing.T) {
	r := alone(t)
	form := regexp.MustCompile(`^are[a-z0-9]{17}$`)
	seen := map[device.ID]bool{}
	for range 20 {
		dev := create(t, r, NewDevice{})
		if !form.MatchString(string(dev.ID)) || seen[dev.ID] || dev.Name != string(dev.ID) || dev.RegistryID != DefaultID {
			t.Fatalf("minted %+v", dev.Device)
		}
		seen[dev.ID] = true
	}
}

func TestCreate_SignsACSR(t *testing.T) {
	r := alone(t)
	got, err := r.Create(ctx(t), NewDevice{Name: "cam", CSR: newCSR(t, newKey(t))})
	if err != nil {
		t.Fatal(err)
	}
	if got.Certificate == "" || !admits(t, r, got.Certificate, got.Device.ID) {
		t.Errorf("the signed certificate admits nobody: %q", got.Certificate)
	}
}

func TestCreate_TheRegistryIsBounded(t *testing.T) {
	r := node(t, Config{JetStream: connect(t, startServer(t, t.TempDir())), MaxDevices: 2})
	create(t, r, NewDevice{Name: "one"})
	two := create(t, r, NewDevice{Name: "two"})
	_, err := r.Create(ctx(t), NewDevice{Name: "three"})
	wantKind(t, "one too many", err, device.RateLimited)
	if err := r.Delete(ctx(t), two.ID); err != nil {
		t.Fatal(err)
	}
	create(t, r, NewDevice{Name: "three"})
}

func TestUpdate_ChangesOnlyWhatIsGiven(t *testing.T) {
	r := alone(t)
	cert := newCert(t)
	dev := create(t, r, NewDevice{Name: "one", Description: "old", Labels: device.Labels{"a": "1"}, Certificates: []string{cert}})
	create(t, r, NewDevice{Name: "two"})
	name, same, taken, bad, long := "three", "one", "two", "a b", strings.Repeat("x", 257)
	none := device.Labels{}
	tests := []struct {
		name  string
		patch Patch
		kind  device.Kind
		want  string
	}{
		{"nothing", Patch{}, device.OK, "one/old/map[a:1]"},
		{"its own name", Patch{Name: &same}, device.OK, "one/old/map[a:1]"},
		{"a taken name", Patch{Name: &taken}, device.DeviceExists, "one/old/map[a:1]"},
		{"a bad name", Patch{Name: &bad}, device.Invalid, "one/old/map[a:1]"},
		{"a long description", Patch{Name: &name, Description: &long}, device.Invalid, "one/old/map[a:1]"},
		{"the name", Patch{Name: &name}, device.OK, "three/old/map[a:1]"},
		{"no labels", Patch{Labels: &none}, device.OK, "three/old/map[]"},
	}
	for _, tt := range tests {
		_, err := r.Update(ctx(t), dev.ID, tt.patch)
		wantKind(t, tt.name, err, tt.kind)
		got, _ := r.Device(dev.ID)
		if s := fmt.Sprintf("%s/%s/%v", got.Name, got.Description, map[string]string(got.Labels)); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
		if !admits(t, r, cert, dev.ID) {
			t.Errorf("%s: the certificate is gone", tt.name)
		}
	}
	if _, ok := r.GetByName(DefaultID, "one"); ok {
		t.Error("the old name still finds it")
	}
	if s, ok := r.GetByName(DefaultID, "three"); !ok || s.ID != dev.ID {
		t.Error("the new name does not find it")
	}
	create(t, r, NewDevice{Name: "one"})
	_, err := r.Update(ctx(t), "nobody", Patch{Name: &name})
	wantKind(t, "no such device", err, device.DeviceNotFound)
	if dev.Name != "one" || dev.Labels["a"] != "1" {
		t.Error("an old snapshot was changed")
	}
}

func TestCertificates_RotateAndRevoke(t *testing.T) {
	r := alone(t)
	old := newCert(t)
	dev := create(t, r, NewDevice{Name: "cam", Certificates: []string{old}})
	other := create(t, r, NewDevice{Name: "other", Certificates: []string{newCert(t)}})

	brought, err := r.AddCertificate(ctx(t), dev.ID, newCert(t), "")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := r.AddCertificate(ctx(t), dev.ID, "", newCSR(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{old, brought.PEM, signed.PEM} {
		if !admits(t, r, c, dev.ID) {
			t.Fatal("not all of them are valid meanwhile")
		}
	}
	_, err = r.AddCertificate(ctx(t), dev.ID, old, "")
	wantKind(t, "its own again", err, device.CertificateInUse)
	_, err = r.AddCertificate(ctx(t), dev.ID, other.Certificates[0].PEM, "")
	wantKind(t, "another device's", err, device.CertificateInUse)
	_, err = r.AddCertificate(ctx(t), "nobody", newCert(t), "")
	wantKind(t, "no such device", err, device.DeviceNotFound)
	_, err = r.AddCertificate(ctx(t), dev.ID, "", "")
	wantKind(t, "neither certificate nor CSR", err, device.InvalidCertificate)

	wantKind(t, "another device's fingerprint", r.RemoveCertificate(ctx(t), dev.ID, other.Certificates[0].Fingerprint), device.CertificateUnknown)
	wantKind(t, "no such device", r.RemoveCertificate(ctx(t), "nobody", signed.Fingerprint), device.DeviceNotFound)
	if err := r.RemoveCertificate(ctx(t), dev.ID, strings.ToUpper(dev.Certificates[0].Fingerprint)); err != nil {
		t.Fatal(err)
	}
	if admits(t, r, old, dev.ID) || !admits(t, r, brought.PEM, dev.ID) {
		t.Error("the revoked certificate admits, or the other does not")
	}
	wantKind(t, "revoked twice", r.RemoveCertificate(ctx(t), dev.ID, dev.Certificates[0].Fingerprint), device.CertificateUnknown)

	for range MaxCertificates - 2 {
		if _, err := r.AddCertificate(ctx(t), dev.ID, newCert(t), ""); err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.AddCertificate(ctx(t), dev.ID, newCert(t), "")
	wantKind(t, "one too many", err, device.Invalid)

	if err := r.Delete(ctx(t), dev.ID); err != nil {
		t.Fatal(err)
	}
	if admits(t, r, brought.PEM, dev.ID) {
		t.Error("a deleted device is admitted")
	}
	wantKind(t, "deleted twice", r.Delete(ctx(t), dev.ID), device.DeviceNotFound)
}

func TestList_Pages(t *testing.T) {
	r := alone(t)
	for i := range 25 {
		create(t, r, NewDevice{Name: fmt.Sprintf("cam-%02d", (i*7)%25), Labels: device.Labels{"parity": strconv.Itoa(i % 2)}})
	}
	tests := map[string]struct {
		filter Filter
		want   int
	}{
		"all":                     {Filter{}, 25},
		"by label":                {Filter{Labels: device.Labels{"parity": "1"}}, 12},
		"by a label nobody has":   {Filter{Labels: device.Labels{"parity": "2"}}, 0},
		"by part of the name":     {Filter{Name: "CAM-1"}, 10},
		"by registry":             {Filter{RegistryID: DefaultID}, 25},
		"by another registry":     {Filter{RegistryID: "other"}, 0},
		"by what the caller says": {Filter{Match: func(s *Snapshot) bool { return s.Name < "cam-03" }}, 3},
	}
	for name, tt := range tests {
		for _, limit := range []int{1, 7, 25, 100} {
			t.Run(fmt.Sprintf("%s, %d a page", name, limit), func(t *testing.T) {
				f := tt.filter
				f.Limit = limit
				var names []string
				for {
					page, next, err := r.List(f)
					if err != nil {
						t.Fatal(err)
					}
					if len(page) > limit || next != "" && len(page) != limit {
						t.Fatalf("a page of %d, next %q", len(page), next)
					}
					for _, s := range page {
						names = append(names, s.Name)
					}
					if next == "" {
						break
					}
					f.Cursor = next
				}
				if len(names) != tt.want || !slices.IsSorted(names) || len(slices.Compact(names)) != tt.want {
					t.Errorf("%d names, want %d, sorted and each once: %v", len(names), tt.want, names)
				}
			})
		}
	}
	for _, cursor := range []string{"!", "AA==", strings.Repeat("A", 100)} {
		_, _, err := r.List(Filter{Limit: 1, Cursor: cursor})
		wantKind(t, "a cursor that is none: "+cursor, err, device.Invalid)
	}
}

func TestList_APageFitsIntoOneMessage(t *testing.T) {
	tbl := newTable(time.Now)
	r := &Registry{table: tbl}
	const size = 100_000
	for i := range 100 {
		id := device.ID(fmt.Sprintf("d%02d", i))
		tbl.replace(id, &Snapshot{Device: device.Device{ID: id, Name: string(id)}, size: size})
	}
	page, next, err := r.List(Filter{Limit: 1000})
	if err != nil || next == "" || len(page) != maxPageBytes/size {
		t.Fatalf("%d devices, next %q, %v", len(page), next, err)
	}
	rest, _, err := r.List(Filter{Limit: 1000, Cursor: next})
	if err != nil || rest[0].Name != fmt.Sprintf("d%02d", len(page)) {
		t.Fatalf("the next page starts at %s, %v", rest[0].Name, err)
	}
}
