// Package ownership is the model that histories of a slot's owners are checked against,
// with porcupine: of Raft's nodes in virtual time, and of real nodes. No program imports
// it.
package ownership

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Owner is the register that a history is about: who owns a slot.
type Owner struct {
	Epoch  slot.Epoch
	Master slot.NodeName
}

// Gives is a confirmed change of an owner; its output is a cluster.Outcome.
type Gives struct{ From, To Owner }

// Reads is whatever is true only of the slot's owner at that moment: a reading that was
// proved fresh, or mail that was acknowledged. Its output is an Owner.
type Reads struct{}

// model has an epoch end once, for one master, and whoever reads it fresh reads what was
// decided last (law 4). A change of unknown outcome may have come true at any later time,
// or never.
func model(first Owner) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(state, input, output any) (bool, any) {
			now := state.(Owner)
			c, change := input.(Gives)
			if !change {
				return output == now, now
			}
			switch output.(cluster.Outcome) {
			case cluster.Done:
				return c.From.Epoch == now.Epoch, c.To
			case cluster.UnknownOutcome:
				if c.From.Epoch == now.Epoch {
					return true, c.To
				}
			}
			return true, now
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

// History notes the operations of one slot, in any order.
type History struct {
	mu  sync.Mutex
	ops []porcupine.Operation
}

// Note notes an operation with the moments at which it was called and had returned. One
// of unknown outcome has not returned.
func (h *History) Note(client int, call, end int64, input, output any) {
	if output == cluster.UnknownOutcome {
		end = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: input, Output: output, Call: call, Return: end})
}

// Count counts the operations by kind, those that have not returned apart.
func (h *History) Count() (all int, kinds map[string]int) {
	kinds = map[string]int{}
	for _, op := range h.ops {
		kinds[fmt.Sprintf("%T %v", op.Input, op.Return == math.MaxInt64)]++
	}
	return len(h.ops), kinds
}

// Check looks for an order of all operations in which each epoch had one owner, and no
// reading was stale. It returns nil when there is one.
func (h *History) Check(first Owner, within time.Duration) error {
	switch porcupine.CheckOperationsTimeout(model(first), h.ops, within) {
	case porcupine.Illegal:
		return fmt.Errorf("no order of %d operations has one owner for each epoch, and no stale reading", len(h.ops))
	case porcupine.Unknown:
		return fmt.Errorf("%d operations: not decided within %s", len(h.ops), within)
	}
	return nil
}
