package daemon

import "testing"

func TestConnectionsAreSharedOutOfTheOpenFiles(t *testing.T) {
	for _, tt := range []struct {
		files uint64
		want  connLimits
		kind  Failure
	}{
		{1024, connLimits{client: 640, peer: 256}, FailureRuntime},
		{1 << 20, connLimits{client: clientConnsMax, peer: peerConnsMax}, FailureRuntime},
		{200, connLimits{client: 22, peer: 50}, FailureRuntime},
		{174, connLimits{client: 3, peer: 43}, FailureRuntime},
		{173, connLimits{}, FailureUsage},
		{0, connLimits{}, FailureUsage},
	} {
		got, err := connLimitsOf(tt.files, 2)
		if tt.kind == FailureUsage {
			if FailureOf(err) != FailureUsage || err == nil {
				t.Errorf("connLimitsOf(%d) = %+v, %v, want a usage error", tt.files, got, err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("connLimitsOf(%d) = %+v, %v, want %+v", tt.files, got, err, tt.want)
		}
		if int(tt.files)-got.client-got.peer < 64 {
			t.Errorf("connLimitsOf(%d) leaves fewer than 64 files", tt.files)
		}
	}
}
