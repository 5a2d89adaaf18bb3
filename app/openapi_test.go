package app

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"pgregory.net/rapid"

	"signaldevice/testserver/pki"
)

// panel is a running demonstration, called as its own OpenAPI document says.
type panel struct {
	*document
	base   string
	tokens map[string]string
	client http.Client
	check  validator.Validator

	cameras []string // connected; nothing may remove them
	devices []string // the test's own, which never connect
	prints  []string // of their certificates
	asked   []string // request ids
}

func newPanel(t *testing.T) *panel {
	t.Helper()
	o := testDemo()
	d, err := Demo(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, d.App) })
	p := &panel{base: "http://" + d.Ready().HTTP, tokens: d.Ready().Tokens, client: http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}}
	t.Cleanup(p.client.CloseIdleConnections)
	_, source := get(t, p.base+"/openapi.json", "")
	p.document = newDocument(t, []byte(source))
	described, err := libopenapi.NewDocument([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	check, errs := validator.NewValidator(described, config.WithFormatAssertions())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	p.check = check
	p.furnish(t)
	return p
}

// furnish registers devices and tells the document's generators what exists.
func (p *panel) furnish(t *testing.T) {
	t.Helper()
	var list struct{ Items []struct{ ID string } }
	_, body := get(t, p.base+"/v1/devices", p.tokens["admin"])
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Items) == 0 {
		t.Fatalf("no cameras: %s", body)
	}
	for _, item := range list.Items {
		p.cameras = append(p.cameras, item.ID)
	}
	var codes, requests, certificates []string
	for i := range 20 {
		csr, certificate := credentials(t)
		requests, certificates = append(requests, csr), append(certificates, certificate)
		status, body := post(t, p.base+"/v1/devices", p.tokens["admin"], fmt.Sprintf(`{"name":"own-%d","csr":%q}`, i, csr))
		p.remember(body)
		if status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		var made struct{ Code string }
		status, body = post(t, p.base+"/v1/enrolment-codes", p.tokens["admin"], `{}`)
		if err := json.Unmarshal([]byte(body), &made); err != nil || status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		codes = append(codes, made.Code)
	}
	status, body := post(t, p.base+"/v1/devices/"+p.cameras[0]+"/commands", p.tokens["admin"], `{"command":"ping"}`)
	p.remember(body)
	if status != http.StatusAccepted {
		t.Fatalf("%d %s", status, body)
	}
	oneOf := func(list *[]string) func(*rapid.T) any {
		return func(t *rapid.T) any { return rapid.SampledFrom(*list).Draw(t, "known") }
	}
	p.known = map[string]func(*rapid.T) any{
		"device": oneOf(&p.cameras), "own device": oneOf(&p.devices), "fingerprint": oneOf(&p.prints), "request_id": oneOf(&p.asked),
		"code": oneOf(&codes), "csr": oneOf(&requests), "certificate": oneOf(&certificates),
		"wait":   func(*rapid.T) any { return 0.0 },
		"Prefer": func(*rapid.T) any { return "wait=0" },
	}
}

// remember notes what an answer says that there is.
func (p *panel) remember(body string) {
	var made struct {
		ID           string
		RequestID    string `json:"request_id"`
		Fingerprint  string
		Certificates []struct{ Fingerprint string }
	}
	if json.Unmarshal([]byte(body), &made) != nil {
		return // a list, or the document
	}
	if made.ID != "" {
		p.devices = append(p.devices, made.ID)
	}
	if made.RequestID != "" {
		p.asked = append(p.asked, made.RequestID)
	}
	for _, c := range made.Certificates {
		p.prints = append(p.prints, c.Fingerprint)
	}
}

// credentials returns a CSR and a certificate, both PEM, of two fresh keys.
func credentials(t *testing.T) (csr, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "camera"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	own, err := pki.SelfSigned("camera", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), string(own.Cert)
}

// operation is one operation of the document.
type operation struct {
	method, path string
	pointer      string // to it, in the document
	parameters   []any
	spec         map[string]any
}

func (d *document) operations() []operation {
	var list []operation
	for path, item := range d.at("#/paths") {
		shared, _ := item.(map[string]any)["parameters"].([]any)
		for method, spec := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			own, _ := spec.(map[string]any)["parameters"].([]any)
			list = append(list, operation{
				method: strings.ToUpper(method), path: path,
				pointer:    "#/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + method,
				parameters: slices.Concat(shared, own), spec: spec.(map[string]any),
			})
		}
	}
	slices.SortFunc(list, func(a, b operation) int { return cmp.Compare(a.order(), b.order()) })
	return list
}

// order sorts operations: what removes something comes last.
func (o operation) order() string {
	if o.method == http.MethodDelete {
		return "~" + o.path
	}
	return o.path + o.method
}

func (o operation) responses() map[string]any { return o.spec["responses"].(map[string]any) }

// call is a drawn call, and whether the document allows it.
type call struct {
	request *http.Request
	role    string
	body    string
	sound   bool // in its form: what it names need not exist
}

func (p *panel) drawCall(t *rapid.T, o operation) call {
	c := call{sound: true}
	target, query, header := o.path, url.Values{}, http.Header{}
	for _, parameter := range o.parameters {
		param := p.resolve(parameter)
		name, in := param["name"].(string), param["in"].(string)
		switch in {
		case "path":
			value := text(p.draw(t, param["schema"], o.means(name)))
			target = strings.Replace(target, "{"+name+"}", url.PathEscape(value), 1)
			if strings.Trim(value, "./") == "" || strings.Contains(value, "/") {
				target, c.sound = strings.Replace(o.path, "{"+name+"}", "no%00id", 1), false // the path would be another one
			}
		case "query":
			if rapid.Bool().Draw(t, "with "+name) {
				value := p.draw(t, param["schema"], name)
				if n, ok := value.(float64); ok && name == "wait" && n > 0 && n <= 60 {
					value = 0.0 // no call waits here
				}
				list, many := value.([]any)
				if !many {
					list = []any{value}
				}
				for _, v := range list {
					query.Add(name, text(v))
				}
			}
		case "header":
			if rapid.Bool().Draw(t, "with "+name) {
				value := text(p.draw(t, param["schema"], name))
				if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					continue // no client sends it
				}
				header.Set(name, value)
			}
		}
	}
	if rarely(t, "unknown query") {
		query.Set("one_more", "1")
		c.sound = o.responses()["422"] == nil
	}
	if o.spec["requestBody"] != nil {
		c.body = p.drawBody(t, o, header, &c.sound)
	}
	c.role = rapid.SampledFrom([]string{"admin", "admin", "admin", "admin", "operator", "viewer", "nobody"}).Draw(t, "role")
	if token := p.tokens[c.role]; token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(t.Context(), o.method, p.base+target, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	c.request = request
	return c
}

// means tells which of the known values a path's parameter takes. What removes something never takes a camera.
func (o operation) means(name string) string {
	switch {
	case name == "id" && strings.HasPrefix(o.path, "/v1/requests/"):
		return "request_id"
	case name == "id" && (o.method == http.MethodDelete || strings.Contains(o.path, "certificates")):
		return "own device"
	case name == "id":
		return "device"
	default:
		return name
	}
}

func (p *panel) drawBody(t *rapid.T, o operation, header http.Header, sound *bool) string {
	const media = "/requestBody/content/application~1json/schema"
	value, err := json.Marshal(p.draw(t, p.at(o.pointer+media), "body"))
	if err != nil {
		t.Fatal(err)
	}
	header.Set("Content-Type", "application/json")
	*sound = *sound && p.fits(t, o.pointer+media, value)
	if !rarely(t, "broken body") {
		return string(value)
	}
	*sound = false
	switch rapid.SampledFrom([]string{"cut", "trailing", "twice", "bytes", "type", "empty", "large"}).Draw(t, "fault") {
	case "cut":
		return string(value[:len(value)-1])
	case "trailing":
		return string(value) + "{}"
	case "twice":
		return `{"name":"a","name":"a","command":"ping","command":"ping"}`
	case "bytes":
		return "{\"name\":\"\xff\",\"command\":\"\xff\"}"
	case "type":
		header.Set("Content-Type", "text/plain")
		return string(value)
	case "large":
		return `{"name":"` + strings.Repeat("x", 300<<10) + `"}`
	default:
		return ""
	}
}

// text shows a drawn value as a path, a query or a header holds it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strings.TrimSuffix(fmt.Sprintf("%f", v), ".000000")
	default:
		return fmt.Sprint(v)
	}
}

// Whatever is sent, the answer is one that the document has for that operation, and never a failure of the server: I10.
func TestAPI_KeepsToItsDocumentWhateverIsSent(t *testing.T) {
	p := newPanel(t)
	codes := p.at("#/components/schemas/Code")["enum"].([]any)
	reached := 0 // operations of which at least one call was accepted
	for _, o := range p.operations() {
		t.Run(o.method+" "+o.path, func(t *testing.T) {
			statuses := map[int]int{}
			rapid.Check(t, func(t *rapid.T) {
				c := p.drawCall(t, o)
				res, err := p.client.Do(c.request)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, err := readAnswer(res)
				if err != nil {
					t.Fatal(err)
				}
				statuses[res.StatusCode]++
				fail := func(what string) {
					t.Helper()
					t.Fatalf("%s: %s %s as %s %q gave %d %s", what, o.method, c.request.URL, c.role, c.body, res.StatusCode, body)
				}
				if res.StatusCode >= http.StatusInternalServerError {
					fail("the server failed")
				}
				if !c.sound && res.StatusCode < http.StatusBadRequest {
					fail("a call that the document forbids was accepted")
				}
				if c.sound && slices.Contains([]int{400, 405, 413, 415}, res.StatusCode) {
					fail("a call that the document allows was not understood")
				}
				if o.responses()[fmt.Sprint(res.StatusCode)] == nil {
					fail("the document does not have this status")
				}
				if res.StatusCode >= http.StatusBadRequest {
					var problem struct {
						Code   string
						Status int
					}
					if err := json.Unmarshal(body, &problem); err != nil || problem.Status != res.StatusCode || !slices.Contains(codes, any(problem.Code)) ||
						res.Header.Get("Content-Type") != "application/problem+json" {
						fail("not a problem with a known code")
					}
				}
				if fault := p.notAsDocumented(o, res, body); fault != "" {
					fail(fault)
				}
				if res.StatusCode < http.StatusBadRequest && o.method == http.MethodPost {
					p.remember(string(body))
				}
			})
			t.Logf("answers by status: %v", statuses)
			if statuses[200]+statuses[201]+statuses[202]+statuses[204] > 0 {
				reached++
			}
		})
	}
	if reached < 14 {
		t.Errorf("only %d operations ever accepted a call: this proves little", reached)
	}
}

// readAnswer reads a body whole, and of a stream, which has no end, the first event.
func readAnswer(res *http.Response) (body []byte, err error) {
	if res.Header.Get("Content-Type") != "text/event-stream" {
		return io.ReadAll(res.Body)
	}
	for lines := bufio.NewReader(res.Body); ; {
		line, err := lines.ReadBytes('\n')
		body = append(body, line...)
		if err != nil || bytes.HasPrefix(line, []byte("data: ")) {
			return body, err
		}
	}
}

// notAsDocumented tells what of an answer differs from the document; "" nothing.
func (p *panel) notAsDocumented(o operation, res *http.Response, body []byte) string {
	if res.StatusCode == http.StatusNoContent {
		if len(body) > 0 {
			return "204 has a body"
		}
		return "" // the validator asks for a content type
	}
	path := strings.ReplaceAll(o.path, "{fingerprint}", strings.Repeat("a", 40))
	if strings.HasPrefix(path, "/v1/requests/") {
		path = strings.ReplaceAll(path, "{id}", "sdr1_"+strings.Repeat("A", 68))
	}
	plain := httptest.NewRequest(o.method, strings.ReplaceAll(path, "{id}", "cam-1"), nil)
	response := &http.Response{StatusCode: res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(body))}
	if ok, errs := p.check.ValidateHttpResponse(plain, response); !ok {
		return fmt.Sprintf("not as documented: %v", errs)
	}
	return ""
}

// The example of each body can be sent as it stands: the document allows it, and the server understands it.
func TestAPI_UnderstandsTheExamplesOfItsDocument(t *testing.T) {
	p := newPanel(t)
	sent := 0
	for _, o := range p.operations() {
		if o.spec["requestBody"] == nil {
			continue
		}
		sent++
		t.Run(o.method+" "+o.path, func(t *testing.T) {
			example, err := json.Marshal(p.at(o.pointer + "/requestBody/content/application~1json")["example"])
			if err != nil {
				t.Fatal(err)
			}
			// The codes and keys of examples are made up; all else must work.
			want := map[string]string{
				"/v1/enrol": "invalid_csr", "/v1/devices": "invalid_csr", "/v1/devices/{id}/certificates": "invalid_csr",
			}[o.path]
			status, body := post(t, p.base+strings.ReplaceAll(o.path, "{id}", p.cameras[0]), p.tokens["admin"], string(example))
			var problem struct{ Code string }
			if err := json.Unmarshal([]byte(body), &problem); err != nil || want != "" && problem.Code != want || want == "" && status >= 300 {
				t.Errorf("%s: %d %s, want %q", example, status, body, want)
			}
		})
	}
	if sent < 5 {
		t.Errorf("only %d operations take a body: %v", sent, slices.Collect(maps.Keys(p.at("#/paths"))))
	}
}
