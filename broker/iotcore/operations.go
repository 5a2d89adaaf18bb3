package iotcore

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/yandex-cloud/go-genproto/yandex/cloud/operation"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxOperations is how many operations this node remembers. A client asks about one right after it was made, if at all:
// they are done when they are answered.
const maxOperations = 1000

// operations serves yandex.cloud.operation.OperationService from the operations that were answered last.
type operations struct {
	operation.UnimplementedOperationServiceServer
	clock func() time.Time

	mu     sync.Mutex
	byID   map[string]*operation.Operation
	oldest []string // ids, in a ring once it is full
	next   int
}

func newOperations(clock func() time.Time) *operations {
	return &operations{clock: clock, byID: map[string]*operation.Operation{}}
}

// Get returns an operation of this node.
func (o *operations) Get(_ context.Context, in *operation.GetOperationRequest) (*operation.Operation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op, ok := o.byID[in.OperationId]
	if !ok {
		return nil, status.Error(codes.NotFound, "there is no such operation, or it was too long ago")
	}
	return op, nil
}

// done makes and remembers an operation that is complete.
func (o *operations) done(description string, metadata, response proto.Message) (*operation.Operation, error) {
	meta, err := anypb.New(metadata)
	if err != nil {
		return nil, fmt.Errorf("iotcore: operation: %w", err)
	}
	resp, err := anypb.New(response)
	if err != nil {
		return nil, fmt.Errorf("iotcore: operation: %w", err)
	}
	now := timestamp(o.clock())
	op := &operation.Operation{
		Id: "are" + strings.ToLower(rand.Text()[:17]), Description: description, CreatedAt: now, ModifiedAt: now,
		Done: true, Metadata: meta, Result: &operation.Operation_Response{Response: resp},
	}
	o.remember(op)
	return op, nil
}

func (o *operations) remember(op *operation.Operation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.oldest) < maxOperations {
		o.oldest = append(o.oldest, op.Id)
	} else {
		delete(o.byID, o.oldest[o.next])
		o.oldest[o.next] = op.Id
		o.next = (o.next + 1) % maxOperations
	}
	o.byID[op.Id] = op
}
