package iotcore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/yandex-cloud/go-genproto/yandex/cloud"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"signaldevice/device"
)

// limits are the options of yandex/cloud/validation.proto on the requests of some services, made ready to check.
type limits struct {
	messages map[protoreflect.FullName]*messageLimits
}

type messageLimits struct {
	fields []fieldLimits
	oneofs []protoreflect.OneofDescriptor // exactly one field must be set
}

// fieldLimits are the limits of one field. For a map or list, length and pattern are about its values.
type fieldLimits struct {
	field    protoreflect.FieldDescriptor
	required bool
	length   *span // characters of a string, bytes of bytes
	pattern  *pattern
	value    *span // of a number
	size     *span // entries of a map or list
	keys     *fieldLimits
	nested   *messageLimits
}

// newLimits reads the requests of all services in the files. An option that it does not know, or cannot read, is an
// error: a limit must not be lost in silence.
func newLimits(files ...protoreflect.FileDescriptor) (*limits, error) {
	l := &limits{messages: map[protoreflect.FullName]*messageLimits{}}
	for _, file := range files {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if _, err := l.read(methods.Get(j).Input()); err != nil {
					return nil, fmt.Errorf("iotcore: limits: %w", err)
				}
			}
		}
	}
	return l, nil
}

// read returns the limits of a message and, through its fields, of those in it.
func (l *limits) read(m protoreflect.MessageDescriptor) (*messageLimits, error) {
	if known, ok := l.messages[m.FullName()]; ok {
		return known, nil
	}
	out := &messageLimits{}
	l.messages[m.FullName()] = out // before its fields: a message may hold itself
	for i := range m.Oneofs().Len() {
		oneof := m.Oneofs().Get(i)
		if proto.GetExtension(oneof.Options(), cloud.E_ExactlyOne).(bool) {
			out.oneofs = append(out.oneofs, oneof)
		}
	}
	for i := range m.Fields().Len() {
		f, err := l.readField(m.Fields().Get(i))
		if err != nil {
			return nil, err
		}
		out.fields = append(out.fields, f)
	}
	return out, nil
}

func (l *limits) readField(field protoreflect.FieldDescriptor) (f fieldLimits, err error) {
	opts := field.Options()
	f = fieldLimits{field: field, required: proto.GetExtension(opts, cloud.E_Required).(bool)}
	if proto.GetExtension(opts, cloud.E_Unique).(bool) || proto.GetExtension(opts, cloud.E_Bytes).(string) != "" {
		return f, fmt.Errorf("%s: the options unique and bytes are not known", field.FullName())
	}
	text := func(x protoreflect.ExtensionType) string { return proto.GetExtension(opts, x).(string) }
	f.length, f.pattern, err = readText(text(cloud.E_Length), text(cloud.E_Pattern))
	if err == nil {
		f.value, err = readSpan(text(cloud.E_Value))
	}
	if err == nil {
		f.size, err = readSpan(text(cloud.E_Size))
	}
	if keys := proto.GetExtension(opts, cloud.E_MapKey).(*cloud.MapKeySpec); err == nil && keys != nil {
		f.keys = &fieldLimits{field: field}
		f.keys.length, f.keys.pattern, err = readText(keys.Length, keys.Pattern)
		if keys.Value != "" {
			err = errors.New("the option map_key.value is not known")
		}
	}
	if err == nil && field.Message() != nil && !field.IsMap() {
		f.nested, err = l.read(field.Message())
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", field.FullName(), err)
	}
	return f, nil
}

// pattern must match a whole text.
type pattern struct {
	text  string // as the proto has it
	whole *regexp.Regexp
}

func readText(length, text string) (*span, *pattern, error) {
	s, err := readSpan(length)
	if err != nil || text == "" {
		return s, nil, err
	}
	re, err := regexp.Compile(`\A(?:` + text + `)\z`)
	return s, &pattern{text, re}, err
}

// maxFaults bounds an answer: a message of 4 MB may hold very many faults.
const maxFaults = 20

// check returns an Invalid error with the faults of the message, or nil.
func (l *limits) check(m proto.Message) error {
	ml, ok := l.messages[m.ProtoReflect().Descriptor().FullName()]
	if !ok {
		return fmt.Errorf("iotcore: no limits were read for %s", m.ProtoReflect().Descriptor().FullName())
	}
	var faults []device.Fault
	ml.check(m.ProtoReflect(), "", func(location, message string) {
		if len(faults) < maxFaults {
			faults = append(faults, device.Fault{Location: location, Message: message})
		}
	})
	if len(faults) == 0 {
		return nil
	}
	return &device.Error{Kind: device.Invalid, Message: faults[0].Location + " " + faults[0].Message, Faults: faults}
}

type report func(location, message string)

func (ml *messageLimits) check(m protoreflect.Message, prefix string, fault report) {
	for _, oneof := range ml.oneofs {
		if m.WhichOneof(oneof) == nil {
			fault(prefix+string(oneof.Name()), "needs exactly one of its fields")
		}
	}
	for _, f := range ml.fields {
		if m.Has(f.field) {
			f.check(m.Get(f.field), prefix+string(f.field.Name()), fault)
		} else if f.required {
			fault(prefix+string(f.field.Name()), "is required")
		} else if f.field.ContainingOneof() == nil {
			f.check(m.Get(f.field), prefix+string(f.field.Name()), fault) // the zero value may be out of bounds
		}
	}
}

func (f *fieldLimits) check(v protoreflect.Value, location string, fault report) {
	switch {
	case f.field.IsMap():
		f.checkSize(v.Map().Len(), location, fault)
		v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			if f.keys != nil { // a key may be anything, so it is not part of the location
				f.keys.checkOne(key.Value(), location, "has a key that ", fault)
			}
			f.checkOne(value, location, "has a value that ", fault)
			return true
		})
	case f.field.IsList():
		f.checkSize(v.List().Len(), location, fault)
		for i := range v.List().Len() {
			f.checkOne(v.List().Get(i), location+"["+strconv.Itoa(i)+"]", "", fault)
		}
	default:
		f.checkOne(v, location, "", fault)
	}
}

func (f *fieldLimits) checkSize(n int, location string, fault report) {
	if f.size != nil && !f.size.holds(int64(n)) {
		fault(location, "must have "+f.size.String()+" entries")
	}
}

// checkOne checks a single value: a field's, a list's element, a map's key or value.
func (f *fieldLimits) checkOne(v protoreflect.Value, location, subject string, fault report) {
	switch x := v.Interface().(type) {
	case string:
		ok := f.checkLength(utf8.RuneCountInString(x), "characters", location, subject, fault)
		if ok && f.pattern != nil && !f.pattern.whole.MatchString(x) {
			fault(location, subject+"must match "+f.pattern.text)
		}
	case []byte:
		f.checkLength(len(x), "bytes", location, subject, fault)
	case int64:
		if f.value != nil && !f.value.holds(x) {
			fault(location, subject+"must be "+f.value.String())
		}
	case protoreflect.Message:
		if f.nested != nil && x.IsValid() {
			f.nested.check(x, location+".", fault)
		}
	}
}

func (f *fieldLimits) checkLength(n int, unit, location, subject string, fault report) (ok bool) {
	if f.length != nil && !f.length.holds(int64(n)) {
		fault(location, subject+"must have "+f.length.String()+" "+unit)
		return false
	}
	return true
}

// span is a range of whole numbers, both ends included. A nil end is open.
type span struct{ least, most *int64 }

var spanForms = regexp.MustCompile(`\A(?:(<=|>=|<|>)(\d+)|(\d+)(?:-(\d+))?)\z`)

// readSpan reads "<=50", "<50", ">=14", ">0", "1-63" and "5". An empty text has no limits: nil.
func readSpan(text string) (*span, error) {
	if text == "" {
		return nil, nil
	}
	m := spanForms.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return nil, fmt.Errorf("the range %q is not known", text)
	}
	number := func(s string, add int64) *int64 {
		n, _ := strconv.ParseInt(s, 10, 64)
		n += add
		return &n
	}
	switch {
	case m[1] == "<=":
		return &span{most: number(m[2], 0)}, nil
	case m[1] == "<":
		return &span{most: number(m[2], -1)}, nil
	case m[1] == ">=":
		return &span{least: number(m[2], 0)}, nil
	case m[1] == ">":
		return &span{least: number(m[2], 1)}, nil
	case m[4] != "":
		return &span{number(m[3], 0), number(m[4], 0)}, nil
	}
	return &span{number(m[3], 0), number(m[3], 0)}, nil
}

func (s *span) holds(n int64) bool {
	return (s.least == nil || n >= *s.least) && (s.most == nil || n <= *s.most)
}

func (s *span) String() string {
	switch {
	case s.least == nil:
		return fmt.Sprintf("at most %d", *s.most)
	case s.most == nil:
		return fmt.Sprintf("at least %d", *s.least)
	case *s.least == *s.most:
		return fmt.Sprintf("exactly %d", *s.least)
	}
	return fmt.Sprintf("%d to %d", *s.least, *s.most)
}

// limitedRegistrar registers services with the limits before each of their methods: whoever registers them cannot forget
// to check. The server's own interceptors still come first, so a caller without rights learns nothing.
type limitedRegistrar struct {
	grpc.ServiceRegistrar
	limits *limits
}

func (r limitedRegistrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	limited := *desc
	limited.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		limited.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: r.limit(m.Handler)}
	}
	r.ServiceRegistrar.RegisterService(&limited, impl)
}

func (r limitedRegistrar) limit(handle grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, outer grpc.UnaryServerInterceptor) (any, error) {
		inner := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			checked := func(ctx context.Context, req any) (any, error) {
				if err := r.limits.check(req.(proto.Message)); err != nil {
					return nil, err
				}
				return next(ctx, req)
			}
			if outer == nil {
				return checked(ctx, req)
			}
			return outer(ctx, req, info, checked)
		}
		return handle(srv, ctx, decode, inner)
	}
}
