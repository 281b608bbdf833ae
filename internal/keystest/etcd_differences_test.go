package keystest

// etcdDifferences lists where the contract departs from etcd 3.4 on purpose,
// each with the topic of the contract's compatibility notes and the reason.
var etcdDifferences = map[string]string{
	"header X-Deimos-Index on success":      "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Index on watch":        "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Index on error":        "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Index on 405":          "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Cluster-Id on success": "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Cluster-Id on watch":   "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Cluster-Id on error":   "headers: the names of Deimos exist beside etcd's",
	"header X-Deimos-Cluster-Id on 405":     "headers: the names of Deimos exist beside etcd's",

	"header X-Raft-Index on error":    "headers: all of them are on every answer, so that clients can always resume",
	"header X-Raft-Term on error":     "headers: all of them are on every answer, so that clients can always resume",
	"header X-Etcd-Index on 405":      "headers: all of them are on every answer, so that clients can always resume",
	"header X-Etcd-Cluster-Id on 405": "headers: all of them are on every answer, so that clients can always resume",
	"header X-Raft-Index on 405":      "headers: all of them are on every answer, so that clients can always resume",
	"header X-Raft-Term on 405":       "headers: all of them are on every answer, so that clients can always resume",

	"header Content-Length on success": "headers: etcd sends answers above 2 KiB in chunks; a client may want the length",

	"expiration format": "expiration: etcd writes nanoseconds; a display needs milliseconds",

	"keys/unclean paths are served":         "unclean paths: a 301 turns a PUT into a GET in many clients",
	"keys/a key of 4096 bytes and one more": "unclean paths: a 301 turns a PUT into a GET in many clients",

	"keys/encoded separators and letters#3": "paths: etcd has no /keys, so that the encoded spelling of it is unknown, too",

	"keys/keys are valid UTF-8":                       "limits: JSON cannot carry other bytes than UTF-8; control characters hide in logs",
	"keys/keys have no control characters":            "limits: JSON cannot carry other bytes than UTF-8; control characters hide in logs",
	"params/values are valid UTF-8":                   "limits: JSON cannot carry other bytes than UTF-8; control characters hide in logs",
	"params/the key is checked before the parameters": "limits: JSON cannot carry other bytes than UTF-8; control characters hide in logs",

	"keys/a key of 128 levels and one more":                  "limits: memory stays bounded",
	"keys/in-order keys count with their name":               "limits: memory stays bounded",
	"limits/a request target over 16 KiB":                    "limits: memory stays bounded",
	"limits/a head over 64 KiB":                              "limits: memory stays bounded",
	"params/a value of the largest size and one byte more#2": "limits: memory stays bounded",
	"params/a value of the largest size and one byte more#3": "limits: memory stays bounded",
	"params/a body over the limit":                           "limits: memory stays bounded",

	"params/prevExists is prevExist": "prevExists: etcd ignores it, so that the write is unconditional; deimos-client sends it",
	"params/prevExists is a boolean": "prevExists: etcd ignores it, so that the write is unconditional; deimos-client sends it",
	"clients/a deimos-client lock":   "prevExists: etcd ignores it, so that the write is unconditional; deimos-client sends it",

	"params/a misspelt condition is refused":                                                    "conditions: a lost condition is a lost update",
	"params/the two spellings of prevExist differ":                                              "conditions: a lost condition is a lost update",
	"params/contradicting conditions":                                                           "conditions: a lost condition is a lost update",
	"params/names are checked before values":                                                    "conditions: a lost condition is a lost update",
	"params/indexes before booleans before wait before prevValue before ttl before prevExist#8": "conditions: a lost condition is a lost update",
	"params/refresh contradicts prevExist=false":                                                "conditions: a lost condition is a lost update",

	"params/the body of a DELETE counts":             "DELETE body: etcd ignores it; deimos-client's compare-and-delete is there",
	"params/prevValue is not empty in a DELETE body": "DELETE body: etcd ignores it; deimos-client's compare-and-delete is there",

	"params/other body types":                         "body types: etcd ignores other bodies and stores an empty value, which nobody means",
	"params/multipart":                                "body types: etcd ignores other bodies and stores an empty value, which nobody means",
	"params/the body type is checked before the form": "body types: etcd ignores other bodies and stores an empty value, which nobody means",

	"params/ttl is at most a century": "huge TTL: etcd makes it permanent or expires it at once; neither was asked for",

	"reads/the root": "root: etcd 3.4 leaves the key of the root out; 2.3 documents it",

	"reads/listings are always sorted": "listings: sorting costs nothing",

	"delete/the root with a condition": "root: every other error 102 names its key",

	"answers/prevNode of a directory has no nodes#3":                "directory TTL: etcd stores the old index of an updated directory; event and state must agree",
	"put/the state of an updated directory agrees with its event#3": "directory TTL: etcd stores the old index of an updated directory; event and state must agree",
	"ttl/children keep their own lives":                             "directory TTL: etcd stores the old index of an updated directory; event and state must agree",
	"watch/a directory sees its own events":                         "directory TTL: etcd stores the old index of an updated directory; event and state must agree",

	"put/update of a file with dir":         "dir=true on a file: etcd makes the value empty; nothing may be lost silently",
	"put/compareAndSwap of a file with dir": "dir=true on a file: etcd makes the value empty; nothing may be lost silently",
	"ttl/dir has no effect on a refresh":    "dir=true on a file: etcd makes the value empty; nothing may be lost silently",

	"watch/a stream replays the history and goes on":         "stream with waitIndex: etcd sends the first old event and then nothing; a stream must be resumable",
	"watch/a stream gives the same with and without a break": "stream with waitIndex: etcd sends the first old event and then nothing; a stream must be resumable",

	"watch/hidden nodes from history#3":                                "history: live and resumed watches must agree",
	"watch/the removal of a directory above without a node at the key": "history: live and resumed watches must agree",
	"watch/the removal of a neighbour from history":                    "history: live and resumed watches must agree",

	"watch/quorum has no effect": "quorum with wait: etcd answers a plain read; a watch was asked for",

	"watch/an event stream":                   "event streams: etcd has none",
	"watch/Last-Event-ID wins over waitIndex": "event streams: etcd has none",
	"watch/an empty Last-Event-ID is absent":  "event streams: etcd has none",
	"watch/a bad Last-Event-ID":               "event streams: etcd has none",

	"cors/OPTIONS without CORS":                    "CORS: a page of a stranger may not write, and is not invited unless told",
	"cors/a foreign origin may read and not write": "CORS: a page of a stranger may not write, and is not invited unless told",

	"other/machines":                "other endpoints: they are the program's own",
	"other/version":                 "other endpoints: they are the program's own",
	"other/health":                  "other endpoints: they are the program's own",
	"other/livez and readyz":        "other endpoints: they are the program's own",
	"other/metrics":                 "other endpoints: they are the program's own",
	"other/paths that do not exist": "other endpoints: they are the program's own",
}
