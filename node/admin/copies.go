package admin

import (
	"context"
	"net/http"

	"mailnode/storage/slot"
)

// Copying changes who holds replicas of a slot.
type Copying interface {
	// PlanCopies says what is to be done for a wish.
	PlanCopies(ctx context.Context, r CopiesRequest) (CopiesAnswer, error)
	// ChangeCopies has that recorded. It does not wait until a copy is filled or has gone.
	ChangeCopies(ctx context.Context, r CopiesRequest) (CopiesAnswer, error)
}

// CopiesRequest wishes for a replica on Add, for none on Drop, or for so many. By is
// filled in by the server.
type CopiesRequest struct {
	Slot  slot.ID       `json:"slot"`
	Add   slot.NodeName `json:"add,omitempty"`
	Drop  slot.NodeName `json:"drop,omitempty"`
	Count *int          `json:"count,omitempty"`
	Force bool          `json:"force,omitempty"` // drop also when no healthy copy is left beside the master
	By    string        `json:"-"`
}

// CopiesAnswer is what is to be done, or what was recorded, in lines for a person. Exit
// is the verb's exit code.
type CopiesAnswer struct {
	Exit  int      `json:"exit"`
	Lines []string `json:"lines"`
	Next  string   `json:"next,omitempty"`
}

func (s *Server) copiesRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/slots/copies/plan", read(s, func(ctx context.Context, r *http.Request) (CopiesAnswer, error) {
		var q CopiesRequest
		if err := decode(r.Body, &q); err != nil {
			return CopiesAnswer{}, err
		}
		return answerCopies(ctx, q, s.backend.Copying.PlanCopies)
	}))
	mux.Handle("POST /v1/slots/copies", change(s, "change replicas", requestTimeout, func(ctx context.Context, q CopiesRequest, by string) (CopiesAnswer, error) {
		q.By = by
		return answerCopies(ctx, q, s.backend.Copying.ChangeCopies)
	}))
}

func answerCopies(ctx context.Context, q CopiesRequest, ask func(context.Context, CopiesRequest) (CopiesAnswer, error)) (CopiesAnswer, error) {
	forms := 0
	for _, is := range []bool{q.Add != "", q.Drop != "", q.Count != nil} {
		if is {
			forms++
		}
	}
	if forms != 1 {
		return CopiesAnswer{}, &Error{Text: "change replicas: name a node to add, one to drop, or how many there are to be", Exit: ExitUsage, Next: "mailnode slot list"}
	}
	a, err := ask(ctx, q)
	a.Lines = orEmpty(a.Lines)
	return a, err
}

// PlanCopies says what would be done.
func (c *Client) PlanCopies(ctx context.Context, r CopiesRequest) (a CopiesAnswer, err error) {
	return a, c.post(ctx, "/v1/slots/copies/plan", r, &a)
}

// ChangeCopies changes who holds replicas of a slot.
func (c *Client) ChangeCopies(ctx context.Context, r CopiesRequest) (a CopiesAnswer, err error) {
	return a, c.post(ctx, "/v1/slots/copies", r, &a)
}
