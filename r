{
 "dataset": "d",
 "filters": [],
 "samples": {
  "in": 2,
  "kept": 2,
  "rejected": 0
 },
 "stage": "filter",
 "variant": "v"
}
