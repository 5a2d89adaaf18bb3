package catalogue

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/device"
)

// Answer reads the body of a reply to the request. A JSON envelope of this request comes first, then the text patterns of
// the command in the file's order, and bytes that fit none are given as they came, with StatusUnparsed. The device's model
// does not matter: Load makes sure that no two patterns read one line differently. A command that is "" or that the
// catalogue does not know has no pattern. Whatever the device sent, the result is valid JSON in UTF-8.
func (c *Catalogue) Answer(command string, id device.RequestID, body []byte) device.Answer {
	if answer, ok := readEnvelope(id, body); ok {
		return answer
	}
	if !isText(body) {
		return device.Answer{Status: device.StatusUnparsed, Result: binaryResult(body)}
	}
	if cmd, ok := c.byName[command]; ok {
		return cmd.read(id, string(body))
	}
	return unparsed(string(body))
}

// read applies the command's text patterns to a line; the first one that takes it wins.
func (cmd *command) read(id device.RequestID, line string) device.Answer {
	for _, form := range cmd.texts {
		if answer, ok := form.read(id, line); ok {
			return answer
		}
	}
	return unparsed(line)
}

func unparsed(text string) device.Answer {
	return device.Answer{Status: device.StatusUnparsed, Result: quote(text)}
}

// readEnvelope takes an object with this request's id, or none, and a known status. Unknown fields are the device's own
// business; repeated ones, invalid UTF-8 and endless depth are not an envelope, because no reader could be given them.
func readEnvelope(id device.RequestID, body []byte) (device.Answer, bool) {
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return device.Answer{}, false
	}
	var e device.Envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return device.Answer{}, false
	}
	if e.RequestID != "" && e.RequestID != id {
		return device.Answer{}, false
	}
	switch e.Status {
	case device.StatusOK, device.StatusError, device.StatusProgress:
	default:
		return device.Answer{}, false
	}
	if string(e.Result) == "null" {
		e.Result = nil
	}
	if !isShallow(e.Result) {
		return device.Answer{}, false
	}
	return device.Answer{Status: e.Status, Result: e.Result, Error: e.Error}, true
}

// isShallow reports whether a JSON value is nested at most maxDepth deep.
func isShallow(value []byte) bool {
	dec := jsontext.NewDecoder(bytes.NewBuffer(value))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return errors.Is(err, io.EOF)
		}
		if dec.StackDepth() > maxDepth {
			return false
		}
	}
}

func isText(body []byte) bool { return utf8.Valid(body) && bytes.IndexByte(body, 0) < 0 }

// binaryResult carries bytes that no JSON string can hold.
func binaryResult(body []byte) stdjson.RawMessage {
	result, err := stdjson.Marshal(struct {
		ContentType string `json:"content_type"`
		Data        []byte `json:"data"`
	}{"application/octet-stream", body})
	if err != nil {
		panic("catalogue: bytes cannot be encoded: " + err.Error()) // strings and bytes always can
	}
	return result
}
