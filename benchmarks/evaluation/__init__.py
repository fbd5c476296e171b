"""Evaluates models on datasets: predict, score and aggregate, shard by shard.

One run of `miou`, from the configuration to the rows of the record:

1. `evaluate.evaluate` gets a `RunConfig` with the dataset, and the models with their weights. It
   makes an `EvaluationTask` (`run_shards`), a value that can be sent to another process.
2. `run_shards.run_task` runs the task on shards. Without `--chunk` the dataset is one shard; with
   it, each shard has at most so many images, and those whose results are not stored yet are run in
   this process or on a Ray cluster (`ray_backend`).
3. A worker evaluates one model after the other on its shard: reference models first, since others
   are scored against their masks (`evaluate.AccuracyWorker`).
4. An `ImageLoop` (`run_model`) takes each image through three stages:

   - load, in threads that work ahead: read the image, decode its reference masks, make its prompts;
   - predict, in the thread of the worker: encode the image once, decode its prompts in batches,
     place clicks (`prompt_runner`);
   - score, in threads again: IoU and boundary IoU of each mask against each reference (`scoring`,
     `boundary_iou`), as one `InstanceRow` each.

   An image that cannot be read, or that the model fails on, becomes a failure, and the next one
   follows. A model that fails on each of the first images is broken: its error becomes its row
   (`run_model`).
5. The rows of a shard become one Parquet file, written atomically under a key of everything that
   determines them, with failures and counts as its metadata (`shard_store`). This is what a killed
   run is resumed from; a run of one shard is resumed model by model from its result cache.
6. Rows of the record come from these files: means with intervals, clicks (`summaries`) and
   comparisons (`comparison`) add up the files one by one, so that memory does not grow with the
   dataset. `shard_store.ShardSummary` adds up failures, times and reasons of empty rows.

The protocol `everything` has another worker (`everything`). `detector-box` uses the same loop for a
dataset in one shard (`detector_boxes`); AP is computed by pycocotools (`coco_eval`). Masks that
were kept by `--save-masks` (`predictions`) are scored again without a model by `rescore`.
"""
