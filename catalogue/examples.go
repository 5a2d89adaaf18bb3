package catalogue

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// maxExamples bounds the examples of one form.
const maxExamples = 20

// exampleID stands for the request id in examples. It has every sort of character that an id may have.
const exampleID = device.RequestID(device.RequestIDPrefix + "Example-of_a-request-id-0123456789-0123456789-0123456789-0123456789Z")

// textExample is one exchange with a device of text: what is sent, what is answered, or both.
type textExample struct {
	Args   yaml.Node     `yaml:"args"`
	Send   string        `yaml:"send"`
	Reply  string        `yaml:"reply"`
	Status device.Status `yaml:"status"` // "": ok, or error where there is one
	Result yaml.Node     `yaml:"result"`
	Error  *exampleError `yaml:"error"`
}

type exampleError struct {
	Code    string `yaml:"code"`
	Message string `yaml:"message"`
}

// jsonExample is one exchange with a device of JSON: arguments that fit, and a reply that the API can read.
type jsonExample struct {
	Args  yaml.Node `yaml:"args"`
	Reply yaml.Node `yaml:"reply"`
}

// replyExample is what a device answers; the envelope without the request id.
type replyExample struct {
	Status device.Status `yaml:"status"`
	Result yaml.Node     `yaml:"result"`
	Error  *exampleError `yaml:"error"`
	Seq    int           `yaml:"seq"`
	Final  *bool         `yaml:"final"`
}

// examples runs the examples of one command.
type examples struct {
	cmd    *command
	node   *yaml.Node // the command's entry
	faults configfile.Faults
}

func (x *examples) fault(at []string, format string, args ...any) {
	x.faults = append(x.faults, configfile.Faultf(configfile.Line(x.node, at...), "%s %s", fieldName(at), fmt.Sprintf(format, args...)))
}

// differs tells of what came out otherwise.
func (x *examples) differs(at []string, want, got string) {
	x.faults = append(x.faults, configfile.Faultf(configfile.Line(x.node, at...), "%s: expected %s, got %s", fieldName(at), want, got))
}

// bounded refuses a list that is too long.
func (x *examples) bounded(at []string, n int) bool {
	if n > maxExamples {
		x.fault(at, "must be at most %d", maxExamples)
	}
	return n <= maxExamples
}

// text runs the examples of a text form.
func (x *examples) text(form *textForm, list []textExample) {
	at := join(form.at, "examples")
	if !x.bounded(at, len(list)) {
		return
	}
	for i := range list {
		e, at := &list[i], join(at, strconv.Itoa(i))
		if e.Send == "" && e.Reply == "" {
			x.fault(at, "must have send, reply or both")
		}
		x.sent(form, at, e)
		x.answered(at, e)
	}
}

// sent compares the line that the arguments make.
func (x *examples) sent(form *textForm, at []string, e *textExample) {
	if e.Send == "" {
		if !e.Args.IsZero() {
			x.fault(at, "has args, but not the line to send")
		}
		return
	}
	args, ok := x.arguments(join(at, argsRoot), &e.Args)
	if !ok {
		return
	}
	line, faults := form.render(args.tree)
	x.refuse(join(at, argsRoot), faults)
	if len(faults) == 0 && string(line) != e.Send {
		x.differs(join(at, "send"), strconv.Quote(e.Send), strconv.Quote(string(line)))
	}
}

// answered compares what is made of the line that the device answers.
func (x *examples) answered(at []string, e *textExample) {
	if e.Reply == "" {
		if e.Status != "" || !e.Result.IsZero() || e.Error != nil {
			x.fault(at, "has an outcome, but not the reply that makes it")
		}
		return
	}
	want, ok := x.outcome(at, e)
	if !ok {
		return
	}
	line := strings.ReplaceAll(e.Reply, device.Placeholder, string(exampleID))
	got := x.cmd.read(exampleID, line)
	if want.Status == device.StatusUnparsed && got.Status == want.Status {
		return // the result is the line
	}
	if w, g := describe(want), describe(got); w != g {
		x.differs(join(at, "reply"), w, g)
	}
}

// outcome is the answer that the example asks for.
func (x *examples) outcome(at []string, e *textExample) (device.Answer, bool) {
	want := device.Answer{Status: e.Status}
	if e.Error != nil {
		want.Error = &device.AnswerError{Code: e.Error.Code, Message: e.Error.Message}
	}
	switch {
	case want.Status == "" && want.Error != nil:
		want.Status = device.StatusError
	case want.Status == "":
		want.Status = device.StatusOK
	}
	switch want.Status {
	case device.StatusOK, device.StatusError, device.StatusUnparsed:
	default:
		x.fault(join(at, "status"), "must be ok, error or unparsed: a line of text is one final reply")
		return want, false
	}
	if e.Result.IsZero() {
		return want, true
	}
	var faults configfile.Faults
	want.Result, faults = toJSON(&e.Result, fieldName(join(at, "result")))
	x.faults = append(x.faults, faults...)
	return want, len(faults) == 0
}

// json checks the examples of the command's JSON form.
func (x *examples) json(list []jsonExample) {
	if !x.bounded([]string{"examples"}, len(list)) {
		return
	}
	for i := range list {
		e, at := &list[i], []string{"examples", strconv.Itoa(i)}
		if e.Args.IsZero() && e.Reply.IsZero() {
			x.fault(at, "must have args, reply or both")
		}
		if !e.Args.IsZero() {
			x.arguments(join(at, argsRoot), &e.Args)
		}
		if !e.Reply.IsZero() {
			x.replied(join(at, "reply"), configfile.Resolve(&e.Reply))
		}
	}
}

// replied checks a sample reply: the API has to be able to read it, and to show its result as the command says.
func (x *examples) replied(at []string, node *yaml.Node) {
	if node.Kind != yaml.MappingNode {
		x.fault(at, "must be a mapping of fields: status, result, error")
		return
	}
	if faults := configfile.DecodeNode(node, new(replyExample)); len(faults) > 0 {
		x.faults = append(x.faults, faults...)
		return
	}
	body, faults := toJSON(node, fieldName(at))
	if len(faults) > 0 {
		x.faults = append(x.faults, faults...)
		return
	}
	answer, ok := readEnvelope(exampleID, body)
	if !ok {
		x.fault(at, "must have the status ok, error or progress")
		return
	}
	if answer.Status == device.StatusError && answer.Error == nil {
		x.fault(at, "has the status error, but not the error")
	}
	if answer.Status == device.StatusOK && answer.Result != nil {
		if message := kindFault(x.cmd.Reply, answer.Result); message != "" {
			x.fault(join(at, "result"), "%s", message)
		}
	}
}

// arguments reads the arguments of an example; none are an empty object.
func (x *examples) arguments(at []string, node *yaml.Node) (a arguments, ok bool) {
	raw := json.RawMessage("{}")
	if !node.IsZero() {
		var faults configfile.Faults
		if raw, faults = toJSON(node, fieldName(at)); len(faults) > 0 {
			x.faults = append(x.faults, faults...)
			return arguments{}, false
		}
	}
	a, faults := x.cmd.arguments(raw)
	x.refuse(at, faults)
	return a, len(faults) == 0
}

// refuse tells the faults of arguments that stand at a place of the entry.
func (x *examples) refuse(at []string, faults []device.Fault) {
	for _, f := range faults {
		x.fault(at, "do not fit the command: %s %s", f.Location, f.Message)
	}
}

// kindFault returns why a result cannot be shown as the command's reply kind says, or "".
func kindFault(kind device.ReplyKind, result json.RawMessage) string {
	switch kind {
	case device.ReplyText:
		if result[0] != '"' {
			return "must be text, as reply.kind says"
		}
	case device.ReplyImage:
		var picture struct {
			ContentType string `json:"content_type"`
			Data        string `json:"data"`
		}
		err := json.Unmarshal(result, &picture)
		if _, bad := base64.StdEncoding.DecodeString(picture.Data); err != nil || bad != nil || !strings.HasPrefix(picture.ContentType, "image/") {
			return "must be a picture, as reply.kind says: content_type image/... and data in base64"
		}
	case device.ReplyJSON:
	}
	return ""
}

// describe writes an answer in one line, the same for all that are equal.
func describe(a device.Answer) string {
	words := string(a.Status)
	if a.Result != nil {
		result := jsontext.Value(a.Result).Clone()
		if result.Canonicalize() == nil {
			a.Result = json.RawMessage(result)
		}
		words += " " + string(a.Result)
	}
	if a.Error != nil {
		words += fmt.Sprintf(" {code: %q, message: %q}", a.Error.Code, a.Error.Message)
	}
	return strings.ReplaceAll(words, string(exampleID), device.Placeholder)
}
