package server

import (
	"sync"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/store"
)

// question is a write or a linearizable read that the node works on. It turns
// what the node tells into what the asker understands.
type question struct {
	server *Server
	event  func(*store.Event, error) // of a write
	view   func(store.View, error)   // of a read
	// told is the method value answer, made once.
	told raftnode.Done
}

var questions sync.Pool

func askFor(s *Server, event func(*store.Event, error), view func(store.View, error)) *question {
	q, ok := questions.Get().(*question)
	if !ok {
		q = new(question)
		q.told = q.answer
	}
	q.server, q.event, q.view = s, event, view
	return q
}

// answer is called by the node, once.
func (q *question) answer(result any, err error) {
	s, event, view := q.server, q.event, q.view
	q.server, q.event, q.view = nil, nil, nil
	questions.Put(q)
	if view != nil {
		if err != nil {
			view(store.View{}, refusal(err, deimos.CauseReadTimeout))
			return
		}
		view(s.store.View(), nil)
		return
	}
	if err != nil {
		event(nil, refusal(err, deimos.CauseWriteTimeout))
		return
	}
	switch v := result.(type) {
	case *store.Event:
		event(v, nil)
	case *deimos.Error:
		event(nil, v)
	default:
		event(nil, refusal(errDuplicate, deimos.CauseWriteTimeout))
	}
}
