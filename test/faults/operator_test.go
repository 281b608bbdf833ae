package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// errNotYet says that what is waited for has not happened.
var errNotYet = errors.New("faults: not yet")

// changeMax is how long a change of the members may take under faults, which
// all end much earlier.
const changeMax = 40 * time.Second

// operator changes the members while faults happen. He asks again until what he
// wants is so, as the answers tell him to. His methods are for one goroutine.
type operator struct {
	c   *cluster
	rng *rand.Rand
}

// run does the steps until ctx ends; a step that was begun is finished, and one
// whose members somebody else has is tried again.
func (op *operator) run(ctx context.Context, steps []operatorStep) {
	for i := 0; len(steps) > 0 && letPass(ctx, time.Duration(50+op.rng.IntN(300))*time.Millisecond); {
		step := steps[i%len(steps)]
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeMax)
		started, err := op.do(done, step)
		cancel()
		if err != nil {
			op.c.violate("operator", "%s: %v", step, err)
		}
		if started {
			op.c.note("operator: "+string(step), err == nil)
			i++
		}
	}
}

// do does one step. It does not start when somebody else has all members.
func (op *operator) do(ctx context.Context, step operatorStep) (started bool, err error) {
	if step == stepLead {
		return true, op.lead(ctx)
	}
	m := op.c.members[op.c.Size] // the spare
	if step == stepWipe || step == stepReplace || step == stepUpdate {
		m = op.c.members[op.rng.IntN(op.c.Size)]
	}
	if !op.c.claim(m) {
		return false, nil
	}
	defer op.c.release(m)
	switch step {
	case stepWipe:
		return true, op.wipe(ctx, m)
	case stepReplace:
		if err := op.remove(ctx, m); err != nil {
			return true, err
		}
		return true, op.add(ctx, m, false)
	case stepUpdate:
		return true, op.update(ctx, m)
	default:
		if err := op.add(ctx, m, step == stepLearner); err != nil {
			return true, err
		}
		letPass(ctx, time.Duration(op.rng.IntN(1500))*time.Millisecond)
		return true, op.remove(ctx, m)
	}
}

// wipe takes a member's directory away and starts it: the others refuse it.
// Then it is replaced.
func (op *operator) wipe(ctx context.Context, m *member) error {
	if !m.kill() {
		return fmt.Errorf("faults: %s did not run", m.name)
	}
	m.in.Store(false)
	m.replaceDir()
	if err := m.start(isRefused); err != nil {
		return err
	}
	p, _ := m.process()
	if !p.wait(changeMax / 2) {
		m.kill()
		return fmt.Errorf("faults: the wiped member %s was not refused", m.name)
	}
	if err := op.delete(ctx, m); err != nil {
		return err
	}
	return op.add(ctx, m, false)
}

// remove removes a member, which ends with 1.
func (op *operator) remove(ctx context.Context, m *member) error {
	m.in.Store(false)
	m.expect(isRemoved)
	if err := op.delete(ctx, m); err != nil {
		return err
	}
	p, _ := m.process()
	if !p.wait(changeMax / 2) {
		m.kill()
		return fmt.Errorf("faults: %s still runs although it was removed", m.name)
	}
	return nil
}

// delete takes a member off the list.
func (op *operator) delete(ctx context.Context, m *member) error {
	id := m.memberID()
	return op.untilDone(ctx, func(ctx context.Context, at *member) error {
		status, body, err := ask(ctx, http.MethodDelete, at.client+"/v2/members/"+id, "")
		if err == nil && status != http.StatusNoContent && status != http.StatusGone {
			err = fmt.Errorf("faults: removing %s (%s) at %s: status %d: %s", m.name, id, at.name, status, body)
		}
		return err
	})
}

// add adds a member at the URLs of a place and starts it with an empty
// directory, until it votes.
func (op *operator) add(ctx context.Context, m *member, learner bool) error {
	if err := op.post(ctx, m, learner); err != nil {
		return err
	}
	op.c.net.know(m.memberID(), m.slot)
	m.replaceDir()
	flags := append([]string{"--initial-cluster-state=existing", "--bootstrap-config", bootstrap(append(op.c.inside(), m))}, op.c.Flags...)
	m.setFlags(flags)
	tries := 0
	err := until(ctx, func() error {
		if !m.running() {
			if tries++; tries > 1 {
				op.c.note("operator: a join was tried again", true)
			}
			if err := m.start(mayFailNow); err != nil {
				return err
			}
		}
		return m.waitReady(ctx, time.Second)
	})
	if err != nil {
		return fmt.Errorf("faults: joining: %w", err)
	}
	m.expect(goesOn)
	m.in.Store(true)
	if learner {
		if err := op.promote(ctx, m); err != nil {
			return err
		}
	}
	return op.untilDone(ctx, func(ctx context.Context, at *member) error {
		l, err := op.c.list(ctx, at)
		if err != nil {
			return err
		}
		for _, other := range l.Members {
			if other.ID == m.memberID() && other.Name == m.name && !other.IsLearner {
				return nil
			}
		}
		return fmt.Errorf("faults: %s does not vote yet: %s", m.name, l.text)
	})
}

// post puts a member on the list and learns its id. An answer that was lost is
// looked up in the list.
func (op *operator) post(ctx context.Context, m *member, learner bool) error {
	old := m.memberID()
	return op.untilDone(ctx, func(ctx context.Context, at *member) error {
		status, body, err := ask(ctx, http.MethodPost, at.client+"/v2/members", fmt.Sprintf(`{"peerURLs":[%q],"isLearner":%v}`, m.peer, learner))
		if err != nil {
			return err
		}
		if status == http.StatusConflict {
			l, err := op.c.list(ctx, at)
			if err != nil {
				return err
			}
			for _, other := range l.Members {
				if len(other.PeerURLs) == 1 && other.PeerURLs[0] == m.peer && other.ID != old {
					m.setID(other.ID)
					return nil
				}
			}
		}
		var added struct{ ID string }
		if err := json.Unmarshal([]byte(body), &added); err != nil || status != http.StatusCreated {
			return fmt.Errorf("faults: adding %s at %s: status %d: %s", m.name, at.name, status, body)
		}
		if added.ID == old {
			op.c.violate("operator", "the id %s of %s was given a second time", old, m.name)
		}
		m.setID(added.ID)
		return nil
	})
}

func (op *operator) promote(ctx context.Context, m *member) error {
	return op.untilDone(ctx, func(ctx context.Context, at *member) error {
		status, body, err := ask(ctx, http.MethodPost, at.client+"/v2/members/"+m.memberID()+"/promote", "")
		if err == nil && status != http.StatusOK && status != http.StatusConflict {
			err = fmt.Errorf("faults: promoting %s at %s: status %d: %s", m.name, at.name, status, body)
		}
		return err
	})
}

func (op *operator) update(ctx context.Context, m *member) error {
	return op.untilDone(ctx, func(ctx context.Context, at *member) error {
		status, body, err := ask(ctx, http.MethodPut, at.client+"/v2/members/"+m.memberID(), fmt.Sprintf(`{"peerURLs":[%q]}`, m.peer))
		if err == nil && status != http.StatusNoContent {
			err = fmt.Errorf("faults: updating %s at %s: status %d: %s", m.name, at.name, status, body)
		}
		return err
	})
}

// lead asks for another leader, once: with faults around it need not succeed,
// but the answer is one of those that are documented.
func (op *operator) lead(ctx context.Context) error {
	all := op.c.inside()
	to, at := all[op.rng.IntN(len(all))], all[op.rng.IntN(len(all))]
	status, body, err := ask(ctx, http.MethodPost, at.client+"/v2/members/"+to.memberID()+"/lead", "")
	if err == nil && status >= 400 && status < 500 && status != http.StatusConflict && status != http.StatusPreconditionFailed {
		return fmt.Errorf("faults: handing leadership to %s at %s: status %d: %s", to.name, at.name, status, body)
	}
	return nil
}

// untilDone tries at one member after the other.
func (op *operator) untilDone(ctx context.Context, try func(ctx context.Context, at *member) error) error {
	return until(ctx, func() error {
		all := op.c.inside()
		if len(all) == 0 {
			return errNotYet
		}
		once, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		err := try(once, all[op.rng.IntN(len(all))])
		if err != nil {
			letPass(ctx, 100*time.Millisecond)
		}
		return err
	})
}

// ask sends a request of the members API.
func ask(ctx context.Context, method, url, body string) (status int, text string, err error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := probe.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(read)), err
}

// nobodyElse reports whether no more than count members are claimed.
func (c *cluster) nobodyElse(count int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.claimed) <= count
}
