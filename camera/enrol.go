package camera

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	enrolTimeout = 10 * time.Second
	maxAnswer    = 256 << 10 // bytes of an enrolment's answer
	longestRetry = time.Minute
)

// enrolRequest and enrolAnswer are the two sides of POST /v1/enrol. Fields that are not known are ignored.
type enrolRequest struct {
	Code string `json:"code"`
	CSR  string `json:"csr"`
	Name string `json:"name,omitempty"`
}

type enrolAnswer struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Certificate string `json:"certificate"` // PEM
	CA          string `json:"ca"`          // PEM
	MQTT        string `json:"mqtt"`        // ssl://host:port
	Topics      Topics `json:"topics"`
}

// EnrolmentError is a refusal by the API. Where Run returns it, asking again with the same code gains nothing.
type EnrolmentError struct {
	Status int    // of HTTP
	Code   string // the problem's stable code, "" where the answer was no problem (RFC 9457)
	Detail string // the problem's text, perhaps ""
}

// Error names status, code and text.
func (e *EnrolmentError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("enrolment refused: %d %s %s", e.Status, e.Code, e.Detail))
}

// retryError is an attempt that may be repeated, after a while where the API names one.
type retryError struct {
	err   error
	after time.Duration
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// enrol returns the camera's identity: the given one, the folder's, or a new one from the API, asked for until it is
// granted, refused for good, or ctx ends.
func (c *Camera) enrol(ctx context.Context) (Identity, error) {
	if c.cfg.Identity != nil {
		return *c.cfg.Identity, nil
	}
	store := folder(c.cfg.Folder)
	if id, found, err := store.load(); err != nil || found {
		return id, err
	}
	key, err := store.key()
	if err != nil {
		return Identity{}, err
	}
	csr, err := newCSR(key, c.cfg.Name)
	if err != nil {
		return Identity{}, err
	}
	id, err := c.askUntilAnswered(ctx, enrolRequest{Code: c.cfg.Code, CSR: string(csr), Name: c.cfg.Name})
	if err != nil {
		return Identity{}, err
	}
	id.Key = key
	if err := id.validate(); err != nil {
		return Identity{}, fmt.Errorf("the API's answer: %w", err)
	}
	c.log.Info("camera enrolled", "camera", id.Name, "device_id", id.ID)
	return id, store.store(id)
}

// askUntilAnswered repeats the request while the API cannot be reached or asks to wait. The same code and key give the
// same device, so that a lost answer costs nothing.
func (c *Camera) askUntilAnswered(ctx context.Context, ask enrolRequest) (Identity, error) {
	wait := backoff{rng: c.rng}
	for {
		if !c.cfg.connecting.enter(ctx) {
			return Identity{}, context.Cause(ctx)
		}
		id, err := c.ask(ctx, ask)
		c.cfg.connecting.leave()
		var retry *retryError
		if !errors.As(err, &retry) {
			return id, err
		}
		c.log.Warn("camera not enrolled yet", "camera", c.cfg.Name, "error", err)
		if !sleep(ctx, max(wait.delay(), retry.after)) {
			return Identity{}, context.Cause(ctx)
		}
	}
}

func (c *Camera) ask(ctx context.Context, ask enrolRequest) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	body, err := json.Marshal(ask)
	if err != nil {
		return Identity{}, err
	}
	url := strings.TrimSuffix(c.cfg.API, "/") + "/v1/enrol"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return Identity{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return Identity{}, &retryError{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Identity{}, &retryError{err: err}
	}
	return readAnswer(resp, text)
}

func readAnswer(resp *http.Response, text []byte) (Identity, error) {
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return Identity{}, readProblem(resp, text)
	}
	var a enrolAnswer
	if err := json.Unmarshal(text, &a); err != nil {
		return Identity{}, fmt.Errorf("the API's answer: %w", err)
	}
	if a.ID == "" {
		return Identity{}, errors.New("the API's answer: id is missing")
	}
	return Identity{
		ID: a.ID, Name: a.Name, Broker: a.MQTT, Topics: a.Topics,
		Certificate: []byte(a.Certificate), CA: []byte(a.CA),
	}, nil
}

// readProblem makes an error of a refusal: temporary for 429 and 5xx, else final.
func readProblem(resp *http.Response, text []byte) error {
	var problem struct{ Code, Detail string }
	_ = json.Unmarshal(text, &problem) // a proxy's page is no problem, and its status says enough
	err := &EnrolmentError{Status: resp.StatusCode, Code: problem.Code, Detail: problem.Detail}
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError {
		return err
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // absent or a date: the back-off decides
	after := time.Duration(min(max(seconds, 0), int(longestRetry/time.Second))) * time.Second
	return &retryError{err: err, after: after}
}
