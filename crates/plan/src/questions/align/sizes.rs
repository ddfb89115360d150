//! The loop of models of so many parameters: recipes made for them, as InstructGPT had its own (arXiv:2203.02155, appendix C).

use train::recipe::Recipe;

use super::Question;
use crate::{PlanError, simulation::family};

/// GPT-3's vocabulary, and episodes of a batch of PPO, and prompts of one of the reward model: arXiv:2203.02155, appendix C.
const VOCAB: usize = 50_257;
const PPO_BATCH: usize = 512;
const REWARD_BATCH: usize = 64;
const EXAMPLES_BATCH: usize = 32;

/// What the loop is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    pub actor_params: f64,
    pub reward_params: f64,
    /// Written examples and how often each is seen.
    pub examples: f64,
    pub example_epochs: f64,
    /// Prompts whose answers people ranked, and answers to each.
    pub ranked_prompts: f64,
    pub answers: f64,
    /// Prompts of the policy, and how many replies are written to them in all.
    pub prompts: f64,
    pub episodes: f64,
    /// Windows of pretraining text beside each reply (PPO-ptx).
    pub pretraining_mix: u32,
    pub prompt_tokens: usize,
    pub reply_tokens: usize,
}

impl Sizes {
    /// InstructGPT's, with an actor of so many parameters.
    #[must_use]
    pub fn instruct_gpt(actor_params: f64) -> Self {
        Self {
            actor_params,
            reward_params: 6e9,
            examples: 13_000.0,
            example_epochs: 16.0,
            ranked_prompts: 33_000.0,
            answers: 6.5,
            prompts: 31_000.0,
            episodes: 256_000.0,
            pretraining_mix: 0,
            prompt_tokens: 1024,
            reply_tokens: 1024,
        }
    }

    /// The same as recipes.
    /// # Errors
    /// When there is no such model.
    pub fn question(&self) -> Result<Question, PlanError> {
        // Its objectives are in no list of this crate's.
        ::align::register();
        let context = self.prompt_tokens + self.reply_tokens;
        let steps = |samples: f64, batch: usize| (samples / batch as f64).ceil().max(1.0);
        let recipe = |params: f64, steps: f64, batch: usize, objective: String| -> Result<Recipe, PlanError> {
            let model = family::sized(params, VOCAB, context)?.table;
            let text = format!(
                "[from]\npath = \"base\"\n[batch]\nsequences = {batch}\nmicro_batch = 1\ncontext = {context}\n[optim]\nkind = \"adamw\"\n\
                 [train]\nsteps = {steps}\nrecompute = true\nprecision = \"bf16\"\n[objective]\n{objective}\n[model]\n{model}"
            );
            Ok(Recipe::parse(&text, "the planned model", &[])?)
        };
        // A recipe compares whole numbers of answers.
        let k = (self.answers.round() as usize).max(2);
        let sft = "kind = \"sft\"\ndemonstrations = \"examples.jsonl\"".to_owned();
        let reward = format!("kind = \"reward\"\npreferences = \"preferences.jsonl\"\nk = {k}");
        let ppo = format!(
            "kind = \"ppo\"\nprompts = \"prompts.jsonl\"\nresponse_tokens = {}\nrollouts = {PPO_BATCH}\ninner_epochs = 1\n{}\
             reward = {{ kind = \"model\", path = \"reward\" }}",
            self.reply_tokens,
            if self.pretraining_mix > 0 {
                format!("pretrain_data = \"data\"\npretrain_coef = 1.0\npretrain_rows = {}\n", self.pretraining_mix)
            } else {
                String::new()
            }
        );
        let recipes = vec![
            recipe(self.actor_params, steps(self.examples * self.example_epochs, EXAMPLES_BATCH), EXAMPLES_BATCH, sft)?,
            recipe(self.reward_params, steps(self.ranked_prompts * self.answers / k as f64, REWARD_BATCH), REWARD_BATCH, reward)?,
            recipe(self.actor_params, steps(self.episodes, PPO_BATCH), PPO_BATCH, ppo)?,
        ];
        Ok(Question {
            recipes,
            ranked_prompts: self.ranked_prompts,
            answers: self.answers,
            prompts: self.prompts,
            prompt_tokens: self.prompt_tokens,
            reply_tokens: self.reply_tokens,
        })
    }
}
