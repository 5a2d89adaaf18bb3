package audit

import "context"

// Origin tells where a call came from, as the edge knows.
type Origin struct {
	Role        string // the name of the caller's role; "" where there is none
	Address     string // of the peer of the connection, with its port
	HTTPRequest string // the id of the HTTP call, under which the log has it

	// Audited is set once a line about the call was written. nil: nobody asks.
	Audited *bool
}

type originKey struct{}

// WithOrigin returns a context in which the calls of a Service have this origin.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// originOf returns the origin of a call, the zero one where nobody set it.
func originOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}
