package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"signaldevice/device"
)

// maxFile is the most bytes that one file may have: more than 50,000 devices with all their labels.
const maxFile = 64 << 20

// row is one entry of a list that the vendor's tool printed. Its fields are read one after the other, and the first that
// is not what it should be becomes its fault.
type row struct {
	place  string                     // "devices-are1.json: [3]"
	fields map[string]json.RawMessage // by their names in snake case; nil: the entry is not an object
	fault  error                      // a Finding
}

// readList reads a list as the vendor's tool prints it: an array of objects, or the answer of the REST API, which holds
// the array in a field. Field names may be in snake case (--format json) or in camel case (json-rest). The error is
// fs.ErrNotExist, or a Finding that names the file and the place in it.
func readList(folder fs.FS, name, field string) ([]*row, error) {
	data, err := readText(folder, name)
	if err != nil {
		return nil, err
	}
	if data[0] == '{' {
		if data, err = unwrap(data, name, field); err != nil {
			return nil, err
		}
	}
	var entries []json.RawMessage // null, an empty list of some versions of the tool, is none
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, notJSON(name, data, err, "must be a list")
	}
	rows := make([]*row, len(entries))
	for i, entry := range entries {
		rows[i] = &row{place: fmt.Sprintf("%s: [%d]", name, i), fields: fieldsOf(entry)}
	}
	return rows, nil
}

// readText returns a file that is UTF-8 text and not empty, without white space around it.
func readText(folder fs.FS, name string) ([]byte, error) {
	file, err := folder.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, Finding{name, "cannot be opened: " + cause(err)}
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, Finding{name, "cannot be read: " + cause(err)}
	case len(data) > maxFile:
		return nil, Finding{name, fmt.Sprintf("is larger than %d bytes", maxFile)}
	case !utf8.Valid(data):
		return nil, Finding{name, "is not UTF-8 text"}
	}
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\uFEFF")))
	if len(data) == 0 {
		return nil, Finding{name, "is empty"}
	}
	return data, nil
}

// cause is an error's text without the path of the file, which the caller names.
func cause(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return err.Error()
}

// unwrap returns the list out of an answer of the REST API. Any other field would mean that it is something else, such
// as an error.
func unwrap(data []byte, name, field string) ([]byte, error) {
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, notJSON(name, data, err, "must be a list")
	}
	list := json.RawMessage("[]") // an empty list is left out
	for key, value := range answer {
		switch snake(key) {
		case field:
			list = value
		case "next_page_token":
			if string(value) != `""` {
				return nil, Finding{name, "is only one page of the list"}
			}
		default:
			return nil, Finding{name, "is not a list of " + field}
		}
	}
	return list, nil
}

// notJSON tells why data was not decoded: with the line of a fault of syntax, else with what was wanted.
func notJSON(name string, data []byte, err error, wanted string) error {
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	switch {
	case !ok:
		return Finding{name, wanted}
	case int(syntax.Offset) >= len(data):
		return Finding{name, "is cut off: the JSON has no end"}
	}
	return Finding{name, fmt.Sprintf("is not JSON: line %d", 1+bytes.Count(data[:syntax.Offset], []byte("\n")))}
}

func fieldsOf(entry json.RawMessage) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(entry, &fields) != nil || fields == nil {
		return nil
	}
	out := make(map[string]json.RawMessage, len(fields))
	for name, value := range fields {
		out[snake(name)] = value
	}
	return out
}

// snake turns a field's name in camel case into the one in snake case.
func snake(name string) string {
	var b strings.Builder
	for _, c := range name {
		if unicode.IsUpper(c) {
			b.WriteByte('_')
			c = unicode.ToLower(c)
		}
		b.WriteRune(c)
	}
	return b.String()
}

// decode puts a field into out, a pointer. A field that is missing or null leaves it as it is, and so does every field
// after a fault.
func (r *row) decode(field string, out any, wanted string) {
	switch value, ok := r.fields[field]; {
	case r.fault != nil:
	case r.fields == nil:
		r.fault = Finding{r.place, "must be an object"}
	case ok && json.Unmarshal(value, out) != nil:
		r.fault = Finding{r.place + "." + field, "must be " + wanted}
	}
}

// text returns a field that holds text; "" where it is missing.
func (r *row) text(field string) (text string) {
	r.decode(field, &text, "a text")
	return text
}

// texts returns a field that holds an object of texts.
func (r *row) texts(field string) (texts map[string]string) {
	r.decode(field, &texts, "an object of texts")
	return texts
}

// id returns a field that holds the id of a device or a registry, which is safe to be part of a file's name.
func (r *row) id(field string) device.ID {
	id := device.ID(r.text(field))
	if r.fault == nil && id.Validate() != nil {
		r.fault = Finding{r.place + "." + field, "must be 1 to 50 letters, digits, '-' and '_'"}
	}
	return id
}
